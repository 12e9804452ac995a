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
const X_TITLES = { steps: "steps", images: "images seen", time: "training time (s)" };
const LOGGED = new Set(["score", "gp", "loss_gp", "loss_ct", "score_teacher", "loss_ct_low", "loss_ct_high"]);
const curves = {
  x: "steps", log: true, smooth: 0.3, fields: new Set(Object.keys(CURVES).filter((f) => CURVES[f][2])),
  zoom: null, heights: {}, // what is seen of x, the same in all panels, and of y in each
  asked: 0, data: {}, windows: {}, trials: [], // the data are those of what is seen of x: the two never part
};

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

const curveOf = (row, field) => (field === "rate" ? speed(row) : (curves.data[row.id] || {})[field]);

// Of many trials, those that look the same as one trace with gaps: Plotly's time goes by traces.
const MANY = 56; // more than looks that differ
function joinedOf(field, trials) {
  const traces = new Map();
  for (const row of trials) {
    const curve = curveOf(row, field), { colour, dash } = lookOf(row), key = colour + dash;
    if (!curve) continue;
    if (!traces.has(key)) {
      traces.set(key, { x: [], y: [], text: [], mode: "lines", line: { color: colour, width: 1, dash }, hovertemplate: "%{text}: %{y:.4g}<extra></extra>" });
    }
    const trace = traces.get(key), name = plain(nameOf(row));
    trace.x.push(...scale(row, curve.x), null);
    trace.y.push(...smoothed(curve.y, curves.smooth), null);
    trace.text.push(...curve.y.map(() => name), "");
  }
  return [...traces.values()];
}

function tracesOf(field, trials) {
  if (trials.length > MANY) return joinedOf(field, trials);
  const traces = [];
  trials.forEach((row) => {
    const curve = curveOf(row, field);
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
  });
  return traces;
}

// What is seen of x: in all panels the same, also where a quantity begins later or ends earlier.
const seenOf = (trials) => curves.zoom || [0, 1.03 * Math.max(1e-3, ...trials.map((row) => scale(row, [row.step])[0] || 0))];

// Where rules tripped: a dotted line, named above the panel so that no name lies over a curve or another name;
// a thin line where that was confirmed; and the steps that the rule looked at, shaded.
const LEVEL = 16, LEVELS = 5; // pixels of a line of names, and lines at most
function flagsOf(trials, width) {
  const shapes = [], names = [];
  const line = (at, colour, style) => ({ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: colour, ...style } });
  for (const row of trials.filter((one) => one.flag && one.flag.step !== undefined)) {
    const { colour } = lookOf(row), { step, signature, confirmed } = row.flag, [at] = scale(row, [step]);
    if (curves.windows[row.id]) {
      const [x0, x1] = scale(row, curves.windows[row.id]);
      shapes.push({ type: "rect", x0, x1, yref: "paper", y0: 0, y1: 1, fillcolor: colour, opacity: 0.1, line: { width: 0 } });
    }
    shapes.push(line(at, colour, { width: 1.5, dash: "dot" }));
    if (typeof confirmed === "number") shapes.push(line(scale(row, [confirmed])[0], colour, { width: 1 }));
    names.push({ at, colour, text: `${nameOf(row)} ${signature}` });
  }
  const [low, high] = seenOf(trials), ends = [];
  const labels = names.filter(({ at }) => at >= low && at <= high).sort((a, b) => a.at - b.at).map(({ at, colour, text }) => {
    const place = ((at - low) / (high - low)) * (width - 70), wide = 6.5 * text.length, left = place < wide ? place : place - wide;
    let level = ends.findIndex((end) => end <= left);
    if (level < 0) level = ends.length;
    ends[level] = left + wide + 8;
    return level < LEVELS && { x: at, y: 1, yref: "paper", text: plain(text), showarrow: false, xanchor: place < wide ? "left" : "right",
      yanchor: "bottom", yshift: LEVEL * level, font: { size: 11 }, bordercolor: colour, borderwidth: 0 };
  }).filter(Boolean);
  return [shapes, labels, 8 + LEVEL * Math.min(LEVELS, ends.length)];
}

act.views.curves = {
  name: "Curves",
  draw(view) {
    const select = el("select", { "aria-label": "Horizontal axis", onchange: (event) => {
      Object.assign(curves, { x: event.target.value, zoom: null });
      this.update(view);
    } }, Object.entries(X_TITLES).map(([value, text]) => el("option", { value, selected: curves.x === value }, text)));
    const slider = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: curves.smooth,
      oninput: (event) => { curves.smooth = Number(event.target.value); this.paint(view); } });
    const log = el("input", { type: "checkbox", checked: curves.log, onchange: (event) => { curves.log = event.target.checked; this.paint(view); } });
    const tick = (field) => (event) => { curves.fields[event.target.checked ? "add" : "delete"](field); this.panels(view); this.update(view); };
    view.replaceChildren(el("h1", {}, "Curves"),
      el("div", { class: "bar" }, el("label", {}, "against ", select), el("label", {}, "smoothing ", slider), el("label", {}, log, "log scale"),
        el("button", { type: "button", id: "whole", hidden: !curves.zoom, onclick: () => this.see(view, null) }, "see all again")),
      el("details", {}, el("summary", {}, "Quantities"), el("div", { class: "choices" }, Object.entries(CURVES).map(([field, [label, unit]]) =>
        el("label", {}, el("input", { type: "checkbox", checked: curves.fields.has(field), onchange: tick(field) }), label, el("span", { class: "soft" }, unit))))),
      el("p", { class: "soft", id: "which" }), el("p", { class: "soft", id: "flags", hidden: true }, "Dotted line: a rule of collapse tripped there. ",
        "Shaded: the steps that it looked at. Thin line: the scores confirmed it."),
      el("div", { class: "panels", id: "charts" }));
    this.panels(view);
    this.update(view);
  },
  panels(view) {
    view.querySelector("#charts").replaceChildren(...Object.keys(CURVES).filter((field) => curves.fields.has(field))
      .map((field) => chartPanel([CURVES[field][0], CURVES[field][1]].filter(Boolean).join(", "), `chart-${field}`)));
  },
  async update(view) {
    const trials = shown(), turn = ++curves.asked, fields = [...curves.fields].filter((field) => field !== "rate");
    put(view.querySelector("#which"), !trials.length ? "no trial has taken a step yet"
      : act.chosen.size ? "chosen: " : `the best ${trials.length} (choose others in the table of trials): `,
    trials.slice(0, 20).map((row) => [dot(row), " ", link(row), "  "]));
    view.querySelector("#flags").hidden = !trials.some((row) => row.flag);
    if (!trials.length) return;
    curves.trials = trials; // what is painted later is what is named above, also if others are the best by then
    // Nearer, a thinned curve shows more: only the range that is seen is asked for.
    const [first, last] = (curves.x === "steps" && curves.zoom) || [];
    try {
      const data = await askCurves(trials, { fields: fields.join(","), points: trials.length > 30 ? 120 : 400,
        ...(first === undefined ? {} : { first, last }) });
      if (turn !== curves.asked || !view.isConnected) return;
      curves.data = data;
      this.paint(view);
      for (const row of trials.filter((one) => one.flag && !(one.id in curves.windows)).slice(0, 12)) {
        const { evidence } = await ask("trial", { id: row.id }).catch(() => ({}));
        if (evidence) curves.windows[row.id] = evidence.window; // the steps that its rule looked at; written when it ends
      }
      if (turn === curves.asked && view.isConnected) this.paint(view);
    } catch (error) { if (turn === curves.asked && view.isConnected) view.querySelector("#which").textContent = `no curves: ${error.message}`; }
  },
  paint(view) {
    const { trials, zoom } = curves;
    for (const field of curves.fields) {
      const place = view.querySelector(`#chart-${field}`);
      if (!place) continue;
      const traces = tracesOf(field, trials), log = curves.log && LOGGED.has(field), height = curves.heights[field];
      if (!traces.length) { delete place.dataset.zoomed; noChart(place, "not measured in these trials"); continue; }
      if (place.querySelector(".empty")) place.replaceChildren();
      const [shapes, annotations, top] = flagsOf(trials, place.clientWidth);
      // What is seen is ours, not Plotly's: it is the same in all panels, and outlives a panel.
      const seen = (range) => (range ? { range, autorange: false } : { autorange: true }), ends = height && height.map((end) => (log ? Math.log10(end) : end));
      draw(place, traces, { shapes, annotations, margin: { l: 56, r: 12, t: top, b: 40 }, uirevision: JSON.stringify([curves.x, log, zoom, height]),
        xaxis: { title: { text: X_TITLES[curves.x] }, ...seen(seenOf(trials)) },
        yaxis: { type: log ? "log" : "linear", ...seen(ends && ends.every(Number.isFinite) && ends) } }).then(() => {
        if (!place.on || place.dataset.zoomed) return;
        place.dataset.zoomed = "yes";
        place.on("plotly_relayout", (change) => this.zoomed(view, field, change));
      });
    }
  },
  zoomed(view, field, change) {
    const range = (axis) => change[`${axis}.range`] || (`${axis}.range[0]` in change ? [change[`${axis}.range[0]`], change[`${axis}.range[1]`]] : null);
    const [x, y] = [range("xaxis"), range("yaxis")];
    if (y) curves.heights[field] = curves.log && LOGGED.has(field) ? y.map((end) => 10 ** end) : y;
    else if (change["yaxis.autorange"]) delete curves.heights[field];
    if (x || change["xaxis.autorange"]) this.see(view, x);
    else if (y || change["yaxis.autorange"]) this.paint(view);
  },
  see(view, zoom) {
    curves.zoom = zoom && zoom.map((end) => Number(end.toPrecision(6)));
    if (!zoom) curves.heights = {};
    view.querySelector("#whole").hidden = !zoom;
    this.paint(view); // at once with what is here
    this.update(view);
    remember();
  },
};

// Curves of many trials: their ids may be more than an address holds.
function askCurves(trials, parameters) {
  const ids = trials.map((row) => row.id).join(",");
  if (act.report || ids.length < 4000) return ask("curves", { ids, ...parameters });
  return ask("curves", parameters, { method: "POST", body: ids });
}
