// The overview, and which view is shown.
"use strict";

const card = (value, words, wide) => el("div", { class: `card${wide ? " wide" : ""}` }, el("b", {}, value), el("span", {}, words));

act.views.overview = {
  name: "Overview",
  draw(view) {
    view.replaceChildren(el("h1", {}, "Overview"), el("div", { id: "totals" }), el("div", { class: "panels" },
      el("section", { class: "panel" }, el("h2", {}, "Best score so far against compute"), el("div", { class: "bar" }, el("label", {}, "against ", el("select", { "aria-label": "Compute",
        onchange: (event) => { this.by = Number(event.target.value); this.chart(view); } }, el("option", { value: 0 }, "images seen"), el("option", { value: 1 }, "training time (s)")))),
      el("div", { class: "chart", id: "best" })), el("section", { class: "panel" }, el("h2", {}, "The best trial"), el("div", { id: "winner" }))));
    this.update(view);
  },
  update(view) {
    view.querySelector("#totals").replaceChildren(...[...act.sources.values()].map((source) => this.source(source)));
    this.chart(view);
    this.winner(view);
  },
  source(source) {
    const mine = rows().filter((row) => row.source === source.key), done = mine.reduce((sum, row) => sum + row.step, 0), live = mine.filter((row) => row.status === "running");
    const saved = (source.saved || []).reduce((sum, one) => sum + one.steps, 0), savedSeconds = (source.saved || []).reduce((sum, one) => sum + one.seconds, 0);
    // The search takes a share of all steps, its budget, and no more than those of what is not over for good.
    const gone = mine.filter((row) => !row.waits && ["confirmed", "stopped", "failed"].includes(row.status)).reduce((sum, row) => sum + row.total - row.step, 0);
    const running = ["running", "silent"].includes(source.state), due = Math.max(done, Math.min((source.takes ?? 1) * source.planned, source.planned - gone)), rate = live.reduce((sum, row) => sum + (row.rate || 0), 0);
    const share = source.state === "finished" ? 1 : due ? Math.min(1, done / due) : 0, left = rate ? (due - done) / rate : NaN, begun = mine.length;
    const numbers = Object.entries(STATUS).map(([status, [sign, , words]]) => [mine.filter((row) => row.status === status).length, `${sign} ${words}`]).filter(([count]) => count);
    if (source.trials > begun) numbers.push([source.trials - begun, "not begun"]);
    const cluster = source.cluster;
    return el("section", { "aria-label": source.name }, el("h2", {}, source.name, " ", el("span", { class: "soft" }, source.about)),
      el("div", { class: "cards" }, numbers.map(([count, words]) => card(String(count), words)),
        card(duration(source.seconds * source.workers), `${source.workers > 1 ? "worker time" : "training time"} used`),
        source.saved ? card(saved ? duration(savedSeconds * source.workers) : "–", `not spent: ${format(saved)} of ${format(source.planned)} planned steps, at each trial's own speed`) : null,
        cluster ? card(`${cluster.cpus_used}/${cluster.cpus} CPUs`, `${cluster.nodes} node(s)${cluster.gpus ? `, ${cluster.gpus_used}/${cluster.gpus} GPUs` : ""}${cluster.waiting ? `; ${cluster.waiting} trial(s) wait for a place` : ""}`) : null,
        source.bad ? card(String(source.bad), "lines of its log cannot be read and are left out") : null,
        source.problem ? card("!", `cannot be read now: ${source.problem}`) : null,
        el("div", { class: "card wide" }, el("progress", { max: 1, value: share, "aria-label": "Progress" }), el("span", {}, running
          ? `${format(done)} of ${format(due)} steps${Number.isFinite(left) ? `; ${duration(left)} left at ${format(rate, 3)} steps/s` : ""}`
          : `${source.state}, after ${format(done)} of ${format(source.planned)} planned steps`))));
  },
  chart(view) {
    const by = this.by || 0, grey = getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
    const stairs = (one, name, line) => ({ x: [...one.best.map((point) => point[by]), by ? one.seconds : one.images], y: [...one.best.map((point) => point[2]), one.best[one.best.length - 1][2]],
      mode: "lines", line: { shape: "hv", ...line }, name: plain(name), hovertemplate: `${plain(one.name)}: %{y:.4g}<extra></extra>` });
    const traces = [
      ...[...act.sources.values()].filter((source) => source.best.length).map((source, i) => stairs(source, source.name, { color: COLOURS[theme()][i % 7], width: 2, dash: DASHES[Math.floor(i / 7) % 4] })),
      ...act.earlier.map((one) => stairs(one, `earlier: ${one.name}`, { color: grey, width: 1, dash: "dot" }))];
    const place = view.querySelector("#best");
    if (!traces.length) { place.replaceChildren(el("p", { class: "empty" }, "no score yet")); return; }
    if (place.querySelector(".empty")) place.replaceChildren();
    draw(place, traces, { ...legendBelow(place, traces.length), uirevision: by, xaxis: { title: { text: by ? "training time (s)" : "images seen" }, rangemode: "tozero" },
      yaxis: { type: "log", title: { text: [...act.sources.values()][0].metric.split(" (")[0] } } });
  },
  async winner(view) {
    const best = rows().filter((row) => row.best !== null && row.status !== "failed").sort((a, b) => (a.rescues > 0) - (b.rescues > 0) || a.best - b.best)[0], place = view.querySelector("#winner");
    if (!best) { place.replaceChildren(el("p", { class: "empty" }, "no trial has a score yet")); return; }
    const about = [el("p", {}, link(best), ` with ${format(best.best)} at step ${format(best.best_step)} of ${format(best.total)}; `, statusOf(best))];
    try {
      const image = await picture(best.id, best.best_step);
      about.push(el("img", { src: image.src, alt: `samples of ${nameOf(best)}`, style: { width: "min(100%, 400px)", "image-rendering": "pixelated" } }));
    } catch { about.push(el("p", { class: "soft" }, "its samples are not here")); }
    if (place.isConnected) place.replaceChildren(...about);
  },
};

// ------------------------------------------------------------------------------------------ which view

const ORDER = ["overview", "trials", "curves", "samples", "parameters"];
let current = "";

function route() {
  const [, name = "overview", id = ""] = location.hash.split("/");
  return [name in act.views ? name : "overview", decodeURIComponent(id)];
}

// Draw the view anew where it is another one; else let it take in what is new.
function render() {
  const view = document.getElementById("view"), [name, id] = route(), key = `${name} ${id}`;
  if (!act.sources.size) {
    view.replaceChildren(el("p", { class: act.failed ? "error" : "empty" }, act.failed ? `nothing can be shown: ${act.failed}` : "Loading …"));
    return;
  }
  document.getElementById("title").textContent = [...act.sources.values()].map((source) => source.name).slice(0, 3).join(", ");
  for (const tab of document.querySelectorAll("#tabs a")) tab[tab.dataset.view === name ? "setAttribute" : "removeAttribute"]("aria-current", "page");
  if (current === key) act.views[name].update(view, id);
  else { current = key; view.onkeydown = null; act.views[name].draw(view, id); }
  footer();
}

function footer() {
  const place = document.getElementById("chosen"), chosen = [...act.chosen.keys()].map((id) => act.trials.get(id)).filter(Boolean);
  const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  place.replaceChildren(...(chosen.length ? [el("span", { class: "soft" }, "chosen:"), ...chosen.slice(0, 12).map((row) => el("span", {}, el("span", { class: "dot", style: { "--mine": lookOf(row).colour } }), " ", link(row), " ",
    el("button", { type: "button", "aria-label": `no longer choose ${nameOf(row)}`, onclick: () => { choose(row.id, false); render(); } }, "×"))),
  chosen.length > 12 ? el("span", {}, `and ${chosen.length - 12} more`) : null, el("button", { type: "button", onclick: () => { act.chosen.clear(); render(); } }, "none")].filter(Boolean) : []));
  const again = focused && [...place.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === focused);
  if (again) again.focus();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", `Use ${name === "dark" ? "light" : "dark"} colours`);
  try { localStorage.setItem("act_ray.theme", name); } catch { /* a page without storage forgets */ }
}

function begin() {
  let kept = null;
  try { kept = localStorage.getItem("act_ray.theme"); } catch { /* so be it */ }
  setTheme(kept === "dark" || kept === "light" ? kept : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.getElementById("theme").addEventListener("click", () => { setTheme(theme() === "dark" ? "light" : "dark"); current = ""; render(); });
  document.getElementById("tabs").append(...ORDER.map((name) => el("a", { href: `#/${name}`, "data-view": name }, act.views[name].name)));
  addEventListener("hashchange", () => { render(); scrollTo(0, 0); document.getElementById("view").focus({ preventScroll: true }); });
  poll().then(render);
  if (!act.report) setInterval(poll, act.pace);
}

begin();
