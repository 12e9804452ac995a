// What the parameters do: parallel coordinates with brushes, a scatter, importance, and how chosen trials differ.
"use strict";

const space = { brushes: {}, against: null };
const SVG = "http://www.w3.org/2000/svg";
function svg(tag, options = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(options)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// An axis of values: a few that come again, as of a `choice`, evenly in their order; other numbers by their logarithm
// where they span more than a decade; anything else in its order.
const FEW = 8;
function axisOf(name, members) {
  const values = members.map((row) => (name === "best" ? row.best : row.values[name])).filter((value) => value !== null && value !== undefined);
  const distinct = [...new Set(values)], numeric = values.length > 0 && values.every((value) => typeof value === "number");
  if (numeric) distinct.sort((a, b) => a - b);
  if (numeric && (name === "best" || distinct.length > FEW || distinct.length === values.length)) {
    const low = distinct[0], high = distinct[distinct.length - 1], log = low > 0 && high / low > 8;
    const place = log ? Math.log : (value) => value, [a, b] = [place(low), place(high)];
    return { name, log, labels: [[0, format(low, 3)], [1, format(high, 3)]],
      at: (value) => (typeof value === "number" ? (b > a ? (place(value) - a) / (b - a) : 0.5) : null) };
  }
  const kinds = [...new Set(distinct.map(String))], share = (i) => (kinds.length > 1 ? i / (kinds.length - 1) : 0.5);
  const labels = kinds.map((kind, i) => [share(i), kind]);
  return { name, kinds, labels: kinds.length > 16 ? [labels[0], labels[kinds.length - 1]] : labels,
    at: (value) => (value === undefined || value === null || !kinds.includes(String(value)) ? null : share(kinds.indexOf(String(value)))) };
}

const passes = (row, axes) => axes.every((axis) => {
  const brush = space.brushes[axis.name];
  if (!brush) return true;
  const at = axis.at(axis.name === "best" ? row.best : row.values[axis.name]);
  return at !== null && at >= brush[0] && at <= brush[1];
});

function parallel(members, names, changed, room) {
  const axes = [...names, "best"].map((name) => axisOf(name, members)), W = Math.max(room, 110 * axes.length), H = 340, top = 46, low = H - 26;
  const x = (i) => 60 + (i * (W - 120)) / Math.max(1, axes.length - 1), y = (share) => low - share * (low - top);
  const picture = svg("svg", { class: "parallel", width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": "Parallel coordinates of the trials' parameters and their best score" });
  const ranked = contests(members.filter((row) => row.best !== null)).flatMap((one) => one.rows.sort((a, b) => b.best - a.best)
    .map((row, rank) => [row, rank / Math.max(1, one.rows.length - 1)])).sort((a, b) => a[1] - b[1]); // each within its search
  ranked.forEach(([row, good]) => {
    const points = axes.map((axis, i) => [x(i), axis.at(axis.name === "best" ? row.best : row.values[axis.name])]).filter(([, at]) => at !== null);
    const on = act.chosen.has(row.id);
    const hue = theme() === "dark" ? `rgb(${Math.round(90 + 60 * (1 - good))},${Math.round(110 + 100 * good)},${Math.round(130 + 110 * good)})`
      : `rgb(${Math.round(190 - 180 * good)},${Math.round(170 - 100 * good)},${Math.round(150 + 20 * good)})`;
    const path = svg("path", { d: points.map(([px, at], i) => `${i ? "L" : "M"}${px},${y(at)}`).join(""), stroke: on ? lookOf(row).colour : hue,
      class: on ? "chosen" : passes(row, axes) ? "" : "off" });
    path.append(svg("title", {}, `${nameOf(row)}: ${format(row.best)}`));
    path.addEventListener("click", () => { location.hash = `#/trial/${row.id}`; });
    picture.append(path);
  });
  axes.forEach((axis, i) => {
    const brush = space.brushes[axis.name], side = i === axes.length - 1 ? "end" : i ? "middle" : "start", tx = i === axes.length - 1 ? x(i) + 50 : i ? x(i) : x(i) - 50;
    picture.append(svg("line", { x1: x(i), x2: x(i), y1: top, y2: low }),
      svg("text", { x: tx, y: 16, "text-anchor": side }, axis.name === "best" ? `best ${metricName()}` : axis.name),
      ...axis.labels.map(([at, text]) => svg("text", { class: "soft", x: x(i) + 5, y: y(at) + (axis.kinds ? 4 : at ? -6 : 16) }, text.slice(0, 16))));
    if (brush) picture.append(svg("rect", { class: "brush", x: x(i) - 9, width: 18, y: y(brush[1]), height: Math.max(4, y(brush[0]) - y(brush[1])) }));
    const handle = svg("rect", { x: x(i) - 16, y: top - 4, width: 32, height: low - top + 8, fill: "transparent", tabindex: "0", role: "slider", style: "cursor: ns-resize",
      "aria-label": `${axis.name}: arrow keys move a range, Escape removes it`, "aria-valuenow": brush ? Math.round(100 * brush[0]) : 0, "aria-valuetext": brush ? "a range is set" : "no range" });
    let from = null;
    const share = (event) => { const box = picture.getBoundingClientRect(); return Math.max(0, Math.min(1, (low - ((event.clientY - box.top) / box.height) * H) / (low - top))); };
    handle.addEventListener("pointerdown", (event) => { from = share(event); space.dragging = true; handle.setPointerCapture(event.pointerId); });
    handle.addEventListener("pointermove", (event) => { if (from !== null) { const to = share(event); space.brushes[axis.name] = [Math.min(from, to), Math.max(from, to)]; } });
    handle.addEventListener("pointerup", (event) => {
      if (from !== null && Math.abs(share(event) - from) < 0.02) delete space.brushes[axis.name];
      from = null;
      space.dragging = false;
      changed(axis.name);
    });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.1, ArrowDown: -0.1 }[event.key], [a, b] = space.brushes[axis.name] || [0, 0.5];
      if (event.key === "Escape") delete space.brushes[axis.name];
      else if (step) space.brushes[axis.name] = event.shiftKey ? [a, Math.max(a + 0.05, Math.min(1, b + step))] : [Math.max(0, Math.min(0.95, a + step)), Math.max(0.05, Math.min(1, b + step))];
      else return;
      event.preventDefault();
      changed(axis.name);
    });
    picture.append(handle);
  });
  return [picture, members.filter((row) => row.best !== null && passes(row, axes))];
}

addEventListener("resize", () => { // one of its pixels is one of the screen's
  const view = document.getElementById("view");
  if (view.querySelector("#parallel")) act.views.parameters.lines(view);
});

act.views.parameters = {
  name: "Parameters",
  draw(view) {
    const names = parameters();
    space.against = names.includes(space.against) ? space.against : names.find((name) => name !== "train.seed") || null;
    const select = el("select", { "aria-label": "Parameter", onchange: (event) => { space.against = event.target.value; this.scatter(view); } },
      names.map((name) => el("option", { value: name, selected: name === space.against }, name)));
    view.replaceChildren(el("h1", {}, "Parameters"),
      el("section", { class: "panel wide" }, el("h2", {}, "Drag along an axis to take a range; the darker, or in the dark the brighter, the better"),
        el("div", { class: "scroll", id: "parallel" }), el("div", { class: "bar" }, el("span", { id: "within", role: "status" }),
          el("button", { type: "button", id: "take" }, "choose these"), el("button", { type: "button", onclick: () => { space.brushes = {}; this.lines(view); } }, "remove ranges"))),
      el("div", { class: "panels" },
        el("section", { class: "panel" }, el("h2", {}, `Best ${metricName()} against `, select), el("div", { class: "chart", id: "scatter" })),
        el("section", { class: "panel" }, el("h2", {}, "Importance: share of the variance of log scores (fANOVA)"), el("div", { id: "importance" }, el("p", { class: "empty" }, "computing …")))),
      el("section", { class: "panel" }, el("h2", {}, "How the chosen trials differ"), el("div", { id: "differ" })));
    this.update(view);
    this.importance(view);
  },
  update(view) { this.lines(view); this.scatter(view); this.differ(view); },
  lines(view, focus) {
    if (space.dragging) return;
    const held = document.activeElement && view.contains(document.activeElement) ? (document.activeElement.getAttribute("aria-label") || "").split(":")[0] : "";
    focus = focus || (held && [...parameters(), "best"].includes(held) ? held : undefined);
    const place = view.querySelector("#parallel"), names = parameters();
    if (!names.length) { place.replaceChildren(el("p", { class: "empty" }, "nothing was searched here")); return; }
    const [picture, inside] = parallel(rows(), names, (name) => this.lines(view, name), place.clientWidth);
    place.replaceChildren(picture);
    if (focus) { const handle = [...picture.querySelectorAll("[tabindex]")].find((h) => h.getAttribute("aria-label").startsWith(`${focus}:`)); if (handle) handle.focus(); }
    const any = Object.keys(space.brushes).length, take = view.querySelector("#take");
    view.querySelector("#within").textContent = any ? `${inside.length} trials are within the ranges` : "";
    take.disabled = !any || !inside.length;
    take.onclick = () => { act.chosen.clear(); for (const row of inside.sort((a, b) => a.best - b.best).slice(0, 50)) choose(row.id, true); render(); };
    take.textContent = inside.length > 50 ? `choose the best 50 of ${inside.length}` : "choose these";
  },
  scatter(view) {
    const members = rows().filter((row) => row.best !== null && space.against && row.values[space.against] !== undefined), axis = axisOf(space.against, members);
    const several = contests(members).filter((one) => one.rows.length), signs = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon"];
    const parts = several.length > 1 ? several.map((one) => [one.name, one.rows]) // whose scores cannot be compared
      : Object.entries(STATUS).map(([status, [, , words]]) => [words, members.filter((row) => row.status === status)]);
    const groups = parts.map(([name, mine], i) => ({ x: mine.map((row) => (axis.kinds ? plain(row.values[space.against]) : row.values[space.against])),
      y: mine.map((row) => row.best), mode: "markers", name: plain(name), customdata: mine.map((row) => row.id),
      text: mine.map((row) => plain(nameOf(row))), hovertemplate: "%{text}: %{y:.4g}<extra></extra>",
      marker: { size: 9, color: COLOURS[theme()][i % 7], symbol: signs[i % 8], line: { width: 1 } } })).filter((trace) => trace.x.length);
    const place = view.querySelector("#scatter");
    if (!groups.length) { noChart(place, "no score yet"); return; }
    if (place.querySelector(".empty")) place.replaceChildren();
    draw(place, groups, { ...legendBelow(place, groups.length), uirevision: space.against, yaxis: { type: "log", title: { text: `best ${metricName()} (lower is better)` } },
      xaxis: { ...(axis.kinds ? { type: "category", categoryorder: "array", categoryarray: axis.kinds.map(plain) } : { type: axis.log ? "log" : "linear" }), title: { text: plain(space.against) } } }).then(() => {
      if (!place.on || place.dataset.opens) return;
      place.dataset.opens = "yes";
      place.on("plotly_click", ({ points }) => { location.hash = `#/trial/${points[0].customdata}`; });
    });
  },
  async importance(view) {
    const place = view.querySelector("#importance"), parts = [];
    for (const source of act.sources.values()) {
      try {
        const found = Object.entries(await ask("importance", { source: source.key }));
        const many = rows().filter((row) => row.source === source.key && row.best !== null).length;
        parts.push(act.sources.size > 1 ? el("h2", {}, source.name) : null, found.length ? el("p", { class: "soft" }, `over ${many} trials with a score`) : null, found.length ? el("div", { class: "rows" }, found.map(([name, share]) => [el("span", {}, name),
          el("i", { style: { width: `${100 * share}%` } }), el("span", {}, `${Math.round(100 * share)}%`)])) : el("p", { class: "empty" }, "too few trials with a score"));
      } catch (error) { parts.push(el("p", { class: "error" }, error.message)); }
    }
    place.replaceChildren(...parts.filter(Boolean));
  },
  differ(view) {
    const place = view.querySelector("#differ"), trials = [...act.chosen.keys()].map((id) => act.trials.get(id));
    if (trials.length < 2) { place.replaceChildren(el("p", { class: "empty" }, "choose two or more trials in the table")); return; }
    const BEST = `best ${metricName()}`, names = parameters().filter((name) => new Set(trials.map((row) => JSON.stringify(row.values[name]))).size > 1);
    place.replaceChildren(el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { class: "left", scope: "col" }, "setting"), trials.map((row) => el("th", { scope: "col" }, link(row))))),
      el("tbody", {}, [BEST, ...names].map((name) => el("tr", {}, el("th", { class: "left", scope: "row" }, name),
        trials.map((row) => el("td", {}, format(name === BEST ? row.best : row.values[name])))))))));
  },
};
