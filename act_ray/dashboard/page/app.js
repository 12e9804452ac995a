// The overview, and which view is shown.
"use strict";

const card = (value, words, wide) => el("div", { class: `card${wide ? " wide" : ""}` }, el("b", {}, value), el("span", {}, words));

act.views.overview = {
  name: "Overview",
  by: "images",
  draw(view) {
    const select = el("select", { "aria-label": "Compute", onchange: (event) => { this.by = event.target.value; this.chart(view); } },
      [["images", "images seen"], ["seconds", "training time (s)"]].map(([value, text]) => el("option", { value, selected: this.by === value }, text)));
    put(view, el("h1", {}, "Overview"), el("div", { class: "panels" }, el("section", { class: "panel" }, el("h2", {}, contests().length > 1 ? "The best trial of each search" : "The best trial"), el("div", { id: "winner" })),
      el("section", { class: "panel", id: "now", hidden: true })), el("div", { id: "totals" }),
    el("section", { class: "panel" }, el("h2", {}, `Best ${metricName()} so far against compute`), el("div", { class: "bar" }, el("label", {}, "against ", select)),
      el("div", { class: "chart", id: "best" })));
    this.update(view);
  },
  update(view) {
    view.querySelector("#totals").replaceChildren(...[...act.sources.values()].map((source) => this.source(source)));
    this.now(view);
    this.chart(view);
    this.winners(view);
  },
  // What runs at this moment.
  now(view) {
    const live = rows().filter((row) => row.status === "running"), place = view.querySelector("#now");
    place.hidden = !live.length;
    put(place, el("h2", {}, `Running now: ${live.length}`), el("ul", { class: "plain" }, live.slice(0, 8).map((row) => el("li", {}, link(row),
      ` at step ${format(row.step)} of ${format(row.total)}`, row.last === null ? ", without a score yet" : `; last ${metricName()} ${format(row.last)}, best ${format(row.best)}`,
      row.rate ? el("span", { class: "soft" }, `; ${duration((row.total - row.step) / row.rate)} to its end`) : null, row.flag ? el("span", { class: "soft" }, `; ${whyOf(row)}`) : null))),
    live.length > 8 ? el("p", { class: "soft" }, `and ${live.length - 8} more`) : null);
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
    const cluster = source.cluster, flagged = mine.filter((row) => row.flag), sure = flagged.filter((row) => row.flag.confirmed !== null && row.flag.confirmed !== undefined), wrong = sure.filter((row) => row.refuted).length;
    return el("section", { "aria-label": source.name }, el("h2", {}, source.name, " ", el("span", { class: "soft" }, source.about)),
      el("div", { class: "cards" }, numbers.map(([count, words]) => card(String(count), words)),
        source.seconds ? card(duration(source.seconds * source.workers), `${source.workers > 1 ? "worker time" : "training time"} used`) : null,
        flagged.length ? card(`${flagged.length} of ${begun}`, `flagged as collapsing; ${sure.length || "none"} of them confirmed${wrong ? `, ${wrong} of those wrongly: a later score was better` : ""}`) : null,
        saved ? card(duration(savedSeconds * source.workers), `not spent: ${format(saved)} of ${format(source.planned)} planned steps, at each trial's own speed`) : null,
        cluster ? card(`${cluster.cpus_used}/${cluster.cpus} CPUs`, `${cluster.nodes} node(s)${cluster.gpus ? `, ${cluster.gpus_used}/${cluster.gpus} GPUs` : ""}${cluster.waiting ? `; ${cluster.waiting} trial(s) wait for a place` : ""}`) : null,
        source.bad ? card(String(source.bad), "lines of its log cannot be read and are left out") : null,
        source.problem ? card("!", `cannot be read now: ${source.problem}`) : null,
        el("div", { class: "card wide" }, el("progress", { max: 1, value: share, "aria-label": "Progress" }), el("span", {}, running
          ? `${format(done)} of ${format(due)} steps${Number.isFinite(left) ? `; ${duration(left)} left at ${format(rate, 3)} steps/s` : ""}`
          : `${source.state}, after ${format(done)} of ${format(source.planned)} planned steps`))));
  },
  chart(view) {
    const by = this.by === "seconds" ? 1 : 0, grey = getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
    const stairs = (one, name, line) => ({ x: [...one.best.map((point) => point[by]), by ? one.seconds : one.images], y: [...one.best.map((point) => point[2]), one.best[one.best.length - 1][2]],
      mode: "lines", line: { shape: "hv", ...line }, name: plain(name), hovertemplate: `${plain(one.name)}: %{y:.4g}<extra></extra>` });
    const traces = [
      ...[...act.sources.values()].filter((source) => source.best.length).map((source, i) => stairs(source, source.name, { color: COLOURS[theme()][i % 7], width: 2, dash: DASHES[Math.floor(i / 7) % 4] })),
      ...act.earlier.map((one) => stairs(one, `earlier: ${one.name}`, { color: grey, width: 1, dash: "dot" }))];
    const place = view.querySelector("#best");
    if (!traces.length) { place.replaceChildren(el("p", { class: "empty" }, "no score yet")); return; }
    if (place.querySelector(".empty")) place.replaceChildren();
    draw(place, traces, { ...legendBelow(place, traces.length), uirevision: by, xaxis: { title: { text: by ? "training time (s)" : "images seen" }, rangemode: "tozero" },
      yaxis: { type: "log", title: { text: `${metricName()} (lower is better)` } } });
  },
  // One for each search: scores over different data say nothing about each other.
  winners(view) {
    const place = view.querySelector("#winner"), sound = (row) => row.best !== null && row.status !== "failed", several = contests().length > 1;
    const found = contests(rows().filter(sound)).map((one) => [one, one.rows.sort((a, b) => (a.rescues > 0) - (b.rescues > 0) || a.best - b.best)[0]]).filter(([, best]) => best);
    const seen = JSON.stringify(found.map(([, best]) => [best.id, best.best, best.best_step, best.status, whyOf(best)]));
    if (place.seen === seen) return; // the pictures do not blink at each poll
    place.seen = seen;
    put(place, found.length ? null : el("p", { class: "empty" }, "no trial has a score yet"), found.map(([one, best]) => {
      const frame = el("div", { class: "frame" }); // of its size before its picture is here: nothing moves
      picture(best.id, best.best_step).then((image) => put(frame, el("img", { src: image.src, alt: `samples of ${nameOf(best)}` })),
        () => put(frame, el("span", { class: "soft" }, "its samples are not here")));
      return el("div", { class: "winner" }, frame, el("div", {}, several ? el("h3", {}, one.name) : null,
        el("p", {}, link(best, shortName(best)), " with ", el("b", {}, format(best.best)), ` at step ${format(best.best_step)} of ${format(best.total)}`),
        el("p", { class: "soft" }, `${metricName()}: lower is better`), el("p", {}, statusOf(best), whyOf(best) ? el("span", { class: "soft" }, `; ${whyOf(best)}`) : null)));
    }));
  },
};

// ------------------------------------------------------------------------------------------ the address

// What is chosen and how it is shown stands in the address, so that a reload keeps it and a link shares it:
// name -> [read it as text, take it from text]. What is as at first is left out.
const list = (text) => text.split(",").filter(Boolean);
const flag = (of, key) => [() => (of[key] ? "1" : "0"), (text) => { of[key] = text === "1"; }];
const word = (of, key) => [() => of[key] || "", (text) => { of[key] = text; }];
const ADDRESS = {
  chosen: [() => [...act.chosen.keys()].join(), (text) => { act.chosen.clear(); for (const id of list(text)) choose(id, true); }],
  by: word(act.views.overview, "by"),
  filter: word(table, "filter"), sort: [() => table.sort.join(), (text) => { table.sort = [text.split(",")[0], text.endsWith(",-1") ? -1 : 1]; }],
  hide: flag(table, "hide"), group: flag(table, "group"), without: [() => [...table.hidden].join(), (text) => { table.hidden = new Set(list(text)); }],
  q: [() => Object.keys(CURVES).filter((field) => curves.fields.has(field)).join(), (text) => { curves.fields = new Set(list(text).filter((field) => field in CURVES)); }],
  x: [() => curves.x, (text) => { curves.x = text in X_TITLES ? text : "steps"; }], log: flag(curves, "log"),
  smooth: [() => String(curves.smooth), (text) => { curves.smooth = Math.max(0, Math.min(1, Number(text) || 0)); }],
  zoom: [() => (curves.zoom || []).join(), (text) => { const ends = list(text).map(Number); curves.zoom = ends.length === 2 && ends.every(Number.isFinite) ? ends : null; }],
  at: [() => String(samples.at), (text) => { samples.at = Math.max(0, Math.min(1, Number(text) || 0)); }],
  cell: [() => String(samples.cell ?? ""), (text) => { samples.cell = /^\d{1,4}$/.test(text) ? Number(text) : null; }],
  against: word(space, "against"),
};
const AT_FIRST = Object.fromEntries(Object.entries(ADDRESS).map(([name, [read]]) => [name, read()]));

function remember() {
  const said = Object.entries(ADDRESS).map(([name, [read]]) => [name, read()]).filter(([name, text]) => text !== AT_FIRST[name]);
  const path = location.hash.split("?")[0] || "#/overview", query = new URLSearchParams(said).toString().replaceAll("%2C", ",");
  const wanted = query ? `${path}?${query}` : path;
  if (location.hash !== wanted && (query || location.hash.includes("?"))) history.replaceState(null, "", wanted);
}

function recall() {
  const [, query] = location.hash.split("?");
  if (query === undefined) return; // a link within the page: all stays as it is
  const said = new URLSearchParams(query);
  for (const [name, [, take]] of Object.entries(ADDRESS)) take(said.get(name) ?? AT_FIRST[name]);
}

// ------------------------------------------------------------------------------------------ which view

let current = "";
const lefts = {}; // how far each view was scrolled when a trial was opened from it

function route() {
  const [, name = "overview", id = ""] = location.hash.split("?")[0].split("/");
  return [name in act.views ? name : "overview", decodeURIComponent(id)];
}

// Draw the view anew where it is another one; else let it take in what is new.
function render() {
  const view = document.getElementById("view"), [name, id] = route(), key = `${name} ${id}`;
  if (!act.sources.size) {
    view.replaceChildren(el("p", { class: act.failed ? "error" : "empty" }, act.failed ? `nothing can be shown: ${act.failed}` : "Loading …"));
    return;
  }
  const all = [...act.sources.values()].map((source) => source.name), names = all.slice(0, 3).join(", ") + (all.length > 3 ? ` and ${all.length - 3} more` : "");
  document.getElementById("title").textContent = names;
  document.title = `${name === "trial" ? `Trial ${act.trials.has(id) ? act.trials.get(id).name : ""}` : act.views[name].name} – ${names} – act_ray`;
  for (const tab of document.querySelectorAll("#tabs a")) {
    const mine = tab.hash.split("?")[0].slice(2);
    if (mine === name) tab.setAttribute("aria-current", "page");
    else if (mine === "trials" && name === "trial") tab.setAttribute("aria-current", "true"); // a trial is one of them
    else tab.removeAttribute("aria-current");
  }
  if (current === key) act.views[name].update(view, id);
  else { current = key; view.onkeydown = null; act.views[name].draw(view, id); }
  footer();
  remember();
}

function footer() {
  const place = document.getElementById("chosen"), chosen = [...act.chosen.keys()].map((id) => act.trials.get(id)).filter(Boolean);
  const left = place.scrollLeft, focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  place.replaceChildren(...(chosen.length ? [el("span", { class: "soft" }, "chosen:"), ...chosen.slice(0, 12).map((row) => el("span", {}, dot(row), " ", link(row), " ",
    el("button", { type: "button", "aria-label": `no longer choose ${nameOf(row)}`, onclick: () => { choose(row.id, false); render(); } }, "×"))),
  chosen.length > 12 ? el("span", {}, `and ${chosen.length - 12} more`) : null, el("button", { type: "button", onclick: () => { act.chosen.clear(); render(); } }, "none")].filter(Boolean) : []));
  const again = focused && [...place.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === focused);
  if (again) again.focus({ preventScroll: true });
  place.scrollLeft = left;
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", `Use ${name === "dark" ? "light" : "dark"} colours`);
}

// The system's choice, also while it changes, until somebody has clicked.
function themes() {
  const system = matchMedia("(prefers-color-scheme: dark)"), again = (name) => { setTheme(name); current = ""; render(); };
  let clicked = null;
  try { clicked = localStorage.getItem("act_ray.theme.clicked"); } catch { /* so be it */ }
  setTheme(clicked === "dark" || clicked === "light" ? clicked : system.matches ? "dark" : "light");
  system.addEventListener("change", () => { if (!clicked) again(system.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    clicked = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("act_ray.theme.clicked", clicked); } catch { /* a page without storage forgets */ }
    again(clicked);
  });
}

function begin() {
  themes();
  recall();
  addEventListener("hashchange", () => {
    const from = current.split(" ")[0];
    lefts[from] = scrollY;
    recall();
    render();
    scrollTo(0, from === "trial" ? lefts[route()[0]] || 0 : 0);
    document.getElementById("view").focus({ preventScroll: true });
  });
  for (const what of ["change", "input", "click", "keyup"]) addEventListener(what, remember);
  poll().then(render);
  if (!act.report) setInterval(poll, act.pace);
}

begin();
