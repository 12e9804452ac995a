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

// An axis of values: numbers by their logarithm where they span more than a decade, anything else in its order.
function axisOf(name, members) {
  const values = members.map((row) => (name === "best" ? row.best : row.values[name])).filter((value) => value !== null && value !== undefined);
  const numbers = values.filter((value) => typeof value === "number"), kinds = [...new Set(values.map(String))];
  if (numbers.length === values.length && values.length) {
    const low = Math.min(...numbers), high = Math.max(...numbers), log = low > 0 && high / low > 8;
    const place = log ? Math.log : (value) => value, [a, b] = [place(low), place(high)];
    return { name, log, low, high, at: (value) => (typeof value === "number" ? (b > a ? (place(value) - a) / (b - a) : 0.5) : null), ends: [format(low, 3), format(high, 3)] };
  }
  const at = (value) => (value === undefined || value === null || !kinds.includes(String(value)) ? null : kinds.length > 1 ? kinds.indexOf(String(value)) / (kinds.length - 1) : 0.5);
  return { name, kinds, at, ends: [kinds[0] || "", kinds[kinds.length - 1] || ""] };
}

const passes = (row, axes) => axes.every((axis) => {
  const brush = space.brushes[axis.name];
  if (!brush) return true;
  const at = axis.at(axis.name === "best" ? row.best : row.values[axis.name]);
  return at !== null && at >= brush[0] && at <= brush[1];
});

function parallel(members, names, changed) {
  const axes = [...names, "best"].map((name) => axisOf(name, members)), W = Math.max(560, 130 * axes.length), H = 340, top = 46, low = H - 26;
  const x = (i) => 60 + (i * (W - 120)) / Math.max(1, axes.length - 1), y = (share) => low - share * (low - top);
  const picture = svg("svg", { class: "parallel", style: `min-width: ${Math.round(0.72 * W)}px`, viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": "Parallel coordinates of the trials' parameters and their best score" });
  const ranked = members.filter((row) => row.best !== null).sort((a, b) => b.best - a.best);
  ranked.forEach((row, rank) => {
    const points = axes.map((axis, i) => [x(i), axis.at(axis.name === "best" ? row.best : row.values[axis.name])]).filter(([, at]) => at !== null);
    const good = rank / Math.max(1, ranked.length - 1), on = act.chosen.has(row.id);
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
      svg("text", { x: tx, y: 16, "text-anchor": side }, axis.name === "best" ? "best score" : axis.name),
      svg("text", { class: "soft", x: x(i) + 5, y: top - 6 }, axis.ends[1]), svg("text", { class: "soft", x: x(i) + 5, y: low + 16 }, axis.ends[0]));
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
        el("section", { class: "panel" }, el("h2", {}, "Best score against ", select), el("div", { class: "chart", id: "scatter" })),
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
    const [picture, inside] = parallel(rows(), names, (name) => this.lines(view, name));
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
    const groups = Object.entries(STATUS).map(([status, [, , words]], i) => {
      const mine = members.filter((row) => row.status === status);
      return { x: mine.map((row) => (axis.kinds ? plain(row.values[space.against]) : row.values[space.against])), y: mine.map((row) => row.best), mode: "markers", name: words,
        text: mine.map((row) => plain(nameOf(row))), hovertemplate: "%{text}: %{y:.4g}<extra></extra>",
        marker: { size: 9, color: COLOURS[theme()][i % 7], symbol: ["circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon"][i], line: { width: 1 } } };
    }).filter((trace) => trace.x.length);
    const place = view.querySelector("#scatter");
    if (!groups.length) { noChart(place, "no score yet"); return; }
    if (place.querySelector(".empty")) place.replaceChildren();
    draw(place, groups, { ...legendBelow(place, groups.length), uirevision: space.against, yaxis: { type: "log", title: { text: "best score" } },
      xaxis: { type: axis.kinds ? "category" : axis.log ? "log" : "linear", title: { text: plain(space.against) } } });
  },
  async importance(view) {
    const place = view.querySelector("#importance"), parts = [];
    for (const source of act.sources.values()) {
      try {
        const found = Object.entries(await ask("importance", { source: source.key }));
        parts.push(act.sources.size > 1 ? el("h2", {}, source.name) : null, found.length ? el("div", { class: "rows" }, found.map(([name, share]) => [el("span", {}, name),
          el("i", { style: { width: `${100 * share}%` } }), el("span", {}, `${Math.round(100 * share)}%`)])) : el("p", { class: "empty" }, "too few trials with a score"));
      } catch (error) { parts.push(el("p", { class: "error" }, error.message)); }
    }
    place.replaceChildren(...parts.filter(Boolean));
  },
  differ(view) {
    const place = view.querySelector("#differ"), trials = [...act.chosen.keys()].map((id) => act.trials.get(id)).filter(Boolean);
    if (trials.length < 2) { place.replaceChildren(el("p", { class: "empty" }, "choose two or more trials in the table")); return; }
    const names = parameters().filter((name) => new Set(trials.map((row) => JSON.stringify(row.values[name]))).size > 1);
    place.replaceChildren(el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { class: "left", scope: "col" }, "setting"), trials.map((row) => el("th", { scope: "col" }, link(row))))),
      el("tbody", {}, ["best score", ...names].map((name) => el("tr", {}, el("th", { class: "left", scope: "row" }, name),
        trials.map((row) => el("td", {}, format(name === "best score" ? row.best : row.values[name])))))))));
  },
};
