// Samples from the same noise over time, two or more trials side by side; one cell can be looked at alone.
"use strict";

const samples = { at: 1, cell: null, layouts: {}, scores: {}, pictures: new Map() };

async function picture(id, step) {
  const key = `${id} ${step}`;
  if (!samples.pictures.has(key)) {
    const image = new Image();
    image.src = act.report ? act.report.sample(id, step) : `/api/sample?${new URLSearchParams({ id, step })}`;
    const drawn = image.decode().then(() => image);
    drawn.catch(() => samples.pictures.delete(key)); // it may come later
    samples.pictures.set(key, drawn);
    if (samples.pictures.size > 400) samples.pictures.delete(samples.pictures.keys().next().value);
  }
  return samples.pictures.get(key);
}

// The part of a grid that a cell is: without its gutter, one pixel before the grid was enlarged (pictures.grid_image).
function part(image, layout, cell) {
  const lines = Math.ceil(layout.cells / layout.columns), column = cell % layout.columns, line = Math.floor(cell / layout.columns);
  for (let scale = 48; scale; scale -= 1) {
    const w = (image.width / scale - 1) / layout.columns - 1, h = (image.height / scale - 1) / lines - 1;
    if (Number.isInteger(w) && Number.isInteger(h) && scale === Math.max(1, Math.floor(48 / h))) {
      return [scale * (1 + column * (w + 1)), scale * (1 + line * (h + 1)), scale * w, scale * h];
    }
  }
  const [w, h] = [image.width / layout.columns, image.height / lines];
  return [column * w, line * h, w, h];
}

const SAME = "All from the same noise: the same cell of two trials is the same z.";
const stepAt = (layout) => layout.steps[Math.round(samples.at * (layout.steps.length - 1))];

act.views.samples = {
  name: "Samples",
  draw(view) {
    const slider = el("input", { type: "range", min: 0, max: 1, step: 1, id: "when", "aria-label": "Step of the training",
      style: { flex: "1 1 240px" }, oninput: (event) => { samples.at = event.target.value / Math.max(1, event.target.max); this.paint(view); } });
    view.replaceChildren(el("h1", {}, "Samples"), el("p", { class: "soft" }, el("span", { id: "noise" }, SAME),
      " Choose a cell to see it alone in all of them; Escape shows the grids again."),
      el("div", { class: "bar" }, el("span", {}, "from the first score"), slider, el("span", {}, "to the last"),
        el("button", { type: "button", id: "whole", hidden: true, onclick: () => { samples.cell = null; this.paint(view); } }, "whole grids")),
      el("div", { class: "grids" }, el("p", { class: "empty" }, "Loading …")));
    view.onkeydown = (event) => { if (event.key === "Escape") { samples.cell = null; this.paint(view); } };
    this.update(view);
  },
  async update(view) {
    const trials = shown(4);
    try {
      await Promise.all(trials.map(async (row) => { samples.layouts[row.id] = await ask("samples", { id: row.id }); }));
    } catch (error) { if (view.querySelector("#when")) view.querySelector(".grids").replaceChildren(el("p", { class: "error" }, error.message)); return; }
    const found = await askCurves(trials, { fields: "score", points: 2000 }).catch(() => ({})); // pictures without scores are still pictures
    for (const [id, { score }] of Object.entries(found)) if (score) samples.scores[id] = new Map(score.x.map((step, i) => [step, score.y[i]]));
    if (view.isConnected && view.querySelector(".grids")) this.paint(view);
  },
  // One stop of the slider for each scored step, of the trial that has the most.
  slide(view, trials) {
    const slider = view.querySelector("#when"), longest = trials.map((row) => samples.layouts[row.id]).sort((a, b) => b.steps.length - a.steps.length)[0];
    slider.max = Math.max(1, longest.steps.length - 1);
    slider.value = Math.round(samples.at * slider.max);
    slider.setAttribute("aria-valuetext", `step ${format(stepAt(longest))}`);
  },
  async paint(view) {
    if (!view.querySelector("#when")) return; // another view is there by now
    const place = view.querySelector(".grids"), trials = shown(4).filter((row) => (samples.layouts[row.id] || { steps: [] }).steps.length);
    if (!place) return;
    if (!trials.length) { place.replaceChildren(el("p", { class: "empty" }, act.report ? "none of their samples are in this report" : "no samples yet: the first come with the first score")); return; }
    this.slide(view, trials);
    view.querySelector("#whole").hidden = samples.cell === null;
    const turn = (samples.turn = (samples.turn || 0) + 1);
    const shapes = new Set();
    const figures = await Promise.all(trials.map(async (row) => {
      const layout = samples.layouts[row.id], step = stepAt(layout), score = (samples.scores[row.id] || new Map()).get(step);
      const caption = el("figcaption", { class: "bar" }, dot(row), link(row),
        el("span", {}, `step ${format(step)} of ${format(row.total)}`), score === undefined ? null : el("span", {}, `${metricName()} ${format(score)}`),
        layout.of > layout.steps.length ? el("span", { class: "soft" }, `${layout.steps.length} of its ${layout.of} grids are in this report`) : null,
        samples.cell === null ? null : el("span", { class: "soft" }, `cell ${samples.cell + 1} of ${layout.cells}`));
      let image = null;
      try { image = await picture(row.id, step); } catch { return el("figure", {}, caption, el("p", { class: "error" }, "this picture cannot be read")); }
      const canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": `samples of ${nameOf(row)} at step ${step}${samples.cell === null ? "" : `, cell ${samples.cell + 1}`}` });
      const [x, y, w, h] = samples.cell === null ? [0, 0, image.width, image.height] : part(image, layout, samples.cell);
      [canvas.width, canvas.height] = [Math.round(w), Math.round(h)];
      canvas.getContext("2d").drawImage(image, x, y, w, h, 0, 0, canvas.width, canvas.height);
      const go = (cell) => { samples.cell = Math.max(0, Math.min(layout.cells - 1, cell)); this.paint(view).then(() => view.querySelector("canvas").focus()); };
      canvas.addEventListener("click", (event) => {
        if (samples.cell !== null) { samples.cell = null; this.paint(view); return; }
        const box = canvas.getBoundingClientRect(), lines = Math.ceil(layout.cells / layout.columns);
        go(Math.floor(((event.clientY - box.top) / box.height) * lines) * layout.columns + Math.floor(((event.clientX - box.left) / box.width) * layout.columns));
      });
      canvas.addEventListener("keydown", (event) => {
        const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: layout.columns, ArrowUp: -layout.columns, Enter: 0 };
        if (event.key in moves) { event.preventDefault(); go((samples.cell ?? 0) + moves[event.key]); }
      });
      shapes.add(`${image.width} ${image.height} ${layout.cells}`);
      return el("figure", {}, caption, canvas);
    }));
    if (turn !== samples.turn || !place.isConnected) return;
    place.replaceChildren(...figures);
    view.querySelector("#noise").textContent = shapes.size > 1 ? "These trials draw images of different shapes: the same cell is the same noise only where the shapes agree."
      : SAME;
  },
};
