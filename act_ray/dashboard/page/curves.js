// Curves of the chosen trials: against steps, images or time; raw lines behind smoothed ones; flags with their windows.
"use strict";

const CURVES = { // field -> [label, unit, whether it is one of those shown at first]
  score: ["score", "Fréchet distance", true], gp: ["‖∇D‖²", "without w_gp", true], loss_gp: ["L_gp", "w_gp ‖∇D‖²", false],
  loss_ct: ["L_CT", "", true], loss_d: ["L_D", "nats", false], loss_g: ["L_G", "nats", false], loss_dsm: ["denoising loss", "", false],
  p_aug: ["p_aug", "probability", false], diversity: ["diversity", "of the data's", true], lambda: ["λ", "mean over levels", false],
  logit_gap: ["logit gap", "real − generated", false], w_gp: ["w_gp", "", false], tau: ["τ", "L_gp", false],
  rate: ["speed", "steps/s", false], score_teacher: ["score of θ⁻", "Fréchet distance", false],
  loss_ct_low: ["L_CT, low noise", "", false], loss_ct_high: ["L_CT, high noise", "", false],
  d_train: ["D(training images)", "logit", false], d_held: ["D(held-out images)", "logit", false], d_fake: ["D(generated)", "logit", false],
};
const LOGGED = new Set(["score", "gp", "loss_gp", "loss_ct", "score_teacher", "loss_ct_low", "loss_ct_high"]);
const curves = { x: "steps", log: true, smooth: 0.3, fields: new Set(Object.keys(CURVES).filter((f) => CURVES[f][2])), asked: 0, data: {}, near: {}, windows: {}, trials: [] };

// Steps as images, or as seconds of training by the times of the trial's reports.
function scale(row, steps) {
  if (curves.x === "steps") return steps;
  if (curves.x === "images") return steps.map((step) => step * row.batch);
  const pace = [[0, 0], ...row.pace];
  if (pace.length < 2) return steps.map(() => null);
  return steps.map((step) => {
    let i = pace.findIndex(([at]) => at >= step);
    if (i < 1) i = i === 0 ? 1 : pace.length - 1;
    const [[a, s], [b, t]] = [pace[i - 1], pace[i]];
    return s + ((t - s) * (step - a)) / Math.max(1, b - a);
  });
}

function smoothed(values, strength) {
  const width = Math.round(strength * values.length * 0.2);
  if (width < 1) return values;
  return values.map((_, i) => median(values.slice(Math.max(0, i - width), i + width + 1)));
}

function speed(row) {
  const pace = [[0, 0], ...row.pace], x = [], y = [];
  for (let i = 1; i < pace.length; i += 1) {
    x.push(pace[i][0]);
    y.push((pace[i][0] - pace[i - 1][0]) / Math.max(1e-9, pace[i][1] - pace[i - 1][1]));
  }
  return x.length ? { x, y } : null;
}

function tracesOf(field, trials) {
  const traces = [], shapes = [];
  trials.forEach((row) => {
    const near = curves.near[field] && curves.near[field][row.id], curve = field === "rate" ? speed(row) : near || (curves.data[row.id] || {})[field];
    if (!curve) return;
    const { colour, dash } = lookOf(row), x = scale(row, curve.x), hover = `${plain(nameOf(row))}: %{y:.4g}<extra></extra>`;
    const dense = curve.y.length > 30;
    if (curve.low) {
      traces.push({ x: [...x, ...[...x].reverse()], y: [...curve.high, ...[...curve.low].reverse()], fill: "toself", mode: "lines",
        fillcolor: colour, opacity: 0.13, line: { width: 0 }, hoverinfo: "skip" });
    } else if (dense && curves.smooth > 0) {
      traces.push({ x, y: curve.y, mode: "lines", line: { color: colour, width: 1 }, opacity: 0.3, hoverinfo: "skip" });
    }
    traces.push({ x, y: dense ? smoothed(curve.y, curves.smooth) : curve.y, mode: dense ? "lines" : "lines+markers",
      line: { color: colour, width: 2, dash }, marker: { size: 5 }, hovertemplate: hover, name: plain(nameOf(row)) });
    if (curves.windows[row.id]) {
      const [x0, x1] = scale(row, curves.windows[row.id]);
      shapes.push({ type: "rect", x0, x1, yref: "paper", y0: 0, y1: 1, fillcolor: colour, opacity: 0.1, line: { width: 0 } });
    }
    if (row.flag && row.flag.step !== undefined) {
      const [at] = scale(row, [row.flag.step]);
      shapes.push({ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: colour, width: 1.5, dash: "dot" },
        label: { text: plain(`${nameOf(row)} ${row.flag.signature}`), font: { size: 10, color: colour }, textposition: "end", xanchor: "right" } });
    }
  });
  return [traces, shapes];
}

act.views.curves = {
  name: "Curves",
  draw(view) {
    const select = el("select", { "aria-label": "Horizontal axis", onchange: (event) => { Object.assign(curves, { x: event.target.value, near: {} }); this.update(view); } },
      [["steps", "steps"], ["images", "images seen"], ["time", "training time (s)"]].map(([value, text]) =>
        el("option", { value, selected: curves.x === value }, text)));
    const slider = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: curves.smooth,
      oninput: (event) => { curves.smooth = Number(event.target.value); this.paint(view); } });
    const log = el("input", { type: "checkbox", checked: curves.log, onchange: (event) => { Object.assign(curves, { log: event.target.checked, near: {} }); this.paint(view); } });
    view.replaceChildren(el("h1", {}, "Curves"),
      el("div", { class: "bar" }, el("label", {}, "against ", select), el("label", {}, "smoothing ", slider), el("label", {}, log, "log scale")),
      el("details", {}, el("summary", {}, "Quantities"), el("div", { class: "choices" }, Object.entries(CURVES).map(([field, [label, unit]]) =>
        el("label", {}, el("input", { type: "checkbox", checked: curves.fields.has(field),
          onchange: (event) => { curves.fields[event.target.checked ? "add" : "delete"](field); this.draw(view); } }), label, el("span", { class: "soft" }, unit))))),
      el("p", { class: "soft", id: "which" }),
      el("div", { class: "panels" }, [...curves.fields].map((field) => chartPanel([CURVES[field][0], CURVES[field][1]].filter(Boolean).join(", "), `chart-${field}`))));
    this.update(view);
  },
  async update(view) {
    const trials = shown(), turn = ++curves.asked, fields = [...curves.fields].filter((field) => field !== "rate");
    put(view.querySelector("#which"), !trials.length ? "no trial has taken a step yet"
      : act.chosen.size ? "chosen: " : `the best ${trials.length} (choose others in the table of trials): `,
    trials.slice(0, 20).map((row) => [el("span", { class: "dot", style: { "--mine": lookOf(row).colour } }), " ", link(row), "  "]));
    if (!trials.length) return;
    curves.trials = trials; // what is painted later is what is named above, also if others are the best by then
    try {
      const data = await askCurves(trials, { fields: fields.join(","), points: trials.length > 30 ? 120 : 400 });
      if (turn !== curves.asked || !view.isConnected) return;
      Object.assign(curves.data, data);
      this.paint(view);
      for (const row of trials.filter((one) => one.flag && !(one.id in curves.windows)).slice(0, 12)) {
        const { evidence } = await ask("trial", { id: row.id });
        curves.windows[row.id] = evidence ? evidence.window : null; // the steps that its rule looked at
      }
      if (turn === curves.asked && view.isConnected) this.paint(view);
    } catch (error) { if (turn === curves.asked) view.querySelector("#which").textContent = `no curves: ${error.message}`; }
  },
  paint(view) {
    const { trials } = curves, titles = { steps: "steps", images: "images seen", time: "training time (s)" };
    for (const field of curves.fields) {
      const place = view.querySelector(`#chart-${field}`);
      if (!place) continue;
      const [traces, shapes] = tracesOf(field, trials);
      if (!traces.length) { delete place.dataset.zoomed; noChart(place, "not measured in these trials"); continue; }
      if (place.querySelector(".empty")) place.replaceChildren();
      draw(place, traces, { shapes, uirevision: `${curves.x} ${curves.log}`, xaxis: { title: { text: titles[curves.x] }, rangemode: "tozero" },
        yaxis: { type: curves.log && LOGGED.has(field) ? "log" : "linear" } }).then(() => {
        if (!place.on || place.dataset.zoomed) return;
        place.dataset.zoomed = "yes";
        place.on("plotly_relayout", (change) => this.zoomed(view, field, change));
      });
    }
  },
  // Nearer, a thinned curve shows more: ask for the range that is seen, and keep it apart from the whole.
  zoomed(view, field, change) {
    const range = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]], whole = change["xaxis.autorange"];
    if (curves.x !== "steps" || field === "rate" || (range[0] === undefined && !whole)) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      try {
        curves.near[field] = {};
        if (!whole) {
          const data = await askCurves(curves.trials, { fields: field, points: 400, first: range[0], last: range[1] });
          for (const [id, found] of Object.entries(data)) if (found[field]) curves.near[field][id] = found[field];
        }
        if (view.isConnected) this.paint(view);
      } catch (error) { say(error.message); }
    }, 250);
  },
};

// Curves of many trials: their ids may be more than an address holds.
function askCurves(trials, parameters) {
  const ids = trials.map((row) => row.id).join(",");
  if (act.report || ids.length < 4000) return ask("curves", { ids, ...parameters });
  return ask("curves", parameters, { method: "POST", body: ids });
}
