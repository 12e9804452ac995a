// Plotly in the page's colours. A chart keeps its zoom when new points come.
"use strict";

function look(extra = {}) {
  const style = getComputedStyle(document.documentElement), value = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: value("--line"), zerolinecolor: value("--line"), linecolor: value("--soft"), automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: value("--text"), size: 12, family: "inherit" },
    margin: { l: 56, r: 12, t: 8, b: 40 }, showlegend: false, hovermode: "closest", uirevision: "kept", dragmode: "zoom",
    hoverlabel: { bgcolor: value("--panel"), font: { color: value("--text") } },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "toImage"], scrollZoom: false };

function draw(place, traces, extra) {
  if (!place.isConnected) return null;
  return Plotly.react(place, traces, look(extra), CONFIG);
}

// A chart that says in words what it has where it has nothing.
function chartPanel(title, id) {
  return el("section", { class: "panel", "aria-label": title }, el("h2", {}, title), el("div", { class: "chart", id }));
}
