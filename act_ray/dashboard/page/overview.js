// The overview: the best trials, what runs, how far each search is.
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
          : `${source.state}, after ${format(done)} of ${format(source.planned)} planned steps`),
        source.resume ? el("span", { class: "command" }, source.resume) : null)));
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
        () => { place.seen = null; put(frame, el("span", { class: "soft" }, "its samples are not here")); }); // asked for again with the next news
      return el("div", { class: "winner" }, frame, el("div", {}, several ? el("h3", {}, one.name) : null,
        el("p", {}, link(best, shortName(best)), " with ", el("b", {}, format(best.best)), ` at step ${format(best.best_step)} of ${format(best.total)}`),
        el("p", { class: "soft" }, `${metricName()}: lower is better`), el("p", {}, statusOf(best), whyOf(best) ? el("span", { class: "soft" }, `; ${whyOf(best)}`) : null)));
    }));
  },
};
