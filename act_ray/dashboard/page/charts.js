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

// Without Plotly's toolbar, which would lie over the labels: drag to zoom, double-click to see all again.
const CONFIG = { displayModeBar: false, scrollZoom: false, doubleClick: "autosize" };

// A legend below the axis' title, with room for its rows.
function legendBelow(place, count) {
  const rows = count > 1 ? Math.min(4, Math.ceil(count / Math.max(1, Math.floor(place.clientWidth / 240)))) : 0; // more scroll
  return { showlegend: count > 1, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" }, margin: { l: 56, r: 12, t: 8, b: 44 + 20 * rows } };
}

// 1, 2, 5, 10, ... where there is room for no more, and Plotly's own choice elsewhere.
function logTicks(traces) {
  let low = Infinity, high = 0;
  for (const trace of traces) for (const value of trace.y || []) if (value > 0) { low = Math.min(low, value); high = Math.max(high, value); }
  return high / low > 5 && high / low < 1e4 ? { dtick: "D2", tickformat: "~g" } : {};
}

// Plotly is large: it is fetched for the first chart, and a table does not wait for it. A report holds it already.
let plotly = null;
function loadPlotly() {
  plotly = plotly || new Promise((loaded, failed) => {
    document.head.append(el("script", { src: "/static/plotly.min.js", onload: loaded, onerror: () => { plotly = null; failed(new Error("the charts' script cannot be fetched")); } }));
  });
  return plotly;
}

async function draw(place, traces, extra) {
  const turn = place.turn = (place.turn || 0) + 1;
  if (!window.Plotly) {
    try { await loadPlotly(); } catch (error) { say(error.message); return; } // the next refresh tries again
    if (turn !== place.turn) return; // there is newer to show
  }
  if (!place.isConnected) return;
  const { yaxis = {} } = extra || {}, ticks = yaxis.type === "log" ? logTicks(traces) : {};
  Plotly.react(place, traces, look({ ...extra, yaxis: { ...ticks, ...yaxis } }), CONFIG);
  if (place.watched) return;
  place.watched = new ResizeObserver(() => { if (place.isConnected && place.querySelector(".main-svg")) Plotly.Plots.resize(place); });
  place.watched.observe(place); // a panel grows with its neighbour, of which the window knows nothing
}

// Takes a chart away, and says why there is none.
function noChart(place, why) {
  place.turn = (place.turn || 0) + 1;
  if (window.Plotly) Plotly.purge(place);
  place.replaceChildren(el("p", { class: "empty" }, why));
}

// A chart that says in words what it has where it has nothing.
function chartPanel(title, id) {
  return el("section", { class: "panel", "aria-label": title }, el("h2", {}, title), el("div", { class: "chart", id }));
}
