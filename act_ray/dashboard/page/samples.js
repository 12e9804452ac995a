// Samples from the same noise over time, two or more trials side by side; one cell can be looked at alone.
"use strict";

const samples = { at: 1, cell: null, layouts: {}, pictures: new Map() };

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

// The part of a grid that a cell is: columns side by side, a margin of a pixel before scaling.
function part(image, layout, cell) {
  const lines = Math.ceil(layout.cells / layout.columns), w = image.width / layout.columns, h = image.height / lines;
  return [(cell % layout.columns) * w, Math.floor(cell / layout.columns) * h, w, h];
}

act.views.samples = {
  name: "Samples",
  draw(view) {
    const slider = el("input", { type: "range", min: 0, max: 1, step: 0.01, value: samples.at, "aria-label": "Share of the training",
      style: { flex: "1 1 240px" }, oninput: (event) => { samples.at = Number(event.target.value); this.paint(view); } });
    view.replaceChildren(el("h1", {}, "Samples"), el("p", { class: "soft" }, "All from the same noise: the same cell of two trials is the same z. ",
      "Choose a cell to see it alone in all of them; Escape shows the grids again."),
      el("div", { class: "bar" }, el("span", {}, "from the first score"), slider, el("span", {}, "to the last"),
        el("button", { type: "button", onclick: () => { samples.cell = null; this.paint(view); } }, "whole grids")),
      el("div", { class: "grids" }, el("p", { class: "empty" }, "Loading …")));
    view.onkeydown = (event) => { if (event.key === "Escape") { samples.cell = null; this.paint(view); } };
    this.update(view);
  },
  async update(view) {
    const trials = shown(4);
    try {
      await Promise.all(trials.map(async (row) => { samples.layouts[row.id] = await ask("samples", { id: row.id }); }));
    } catch (error) { view.querySelector(".grids").replaceChildren(el("p", { class: "error" }, error.message)); return; }
    if (view.isConnected) this.paint(view);
  },
  async paint(view) {
    const place = view.querySelector(".grids"), trials = shown(4).filter((row) => (samples.layouts[row.id] || { steps: [] }).steps.length);
    if (!place) return;
    if (!trials.length) { place.replaceChildren(el("p", { class: "empty" }, "no samples yet: the first come with the first score")); return; }
    const turn = (samples.turn = (samples.turn || 0) + 1);
    const figures = await Promise.all(trials.map(async (row) => {
      const layout = samples.layouts[row.id], step = layout.steps[Math.round(samples.at * (layout.steps.length - 1))];
      const caption = el("figcaption", { class: "bar" }, dot(row), link(row),
        el("span", {}, `step ${format(step)} of ${format(row.total)}`));
      let image;
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
      return el("figure", { style: { margin: "0" } }, caption, canvas);
    }));
    if (turn === samples.turn && place.isConnected) place.replaceChildren(...figures);
  },
};
