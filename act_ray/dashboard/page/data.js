// What the page knows: trials and sources, kept up to date from the server, or embedded in a report.
"use strict";
const act = { trials: new Map(), sources: new Map(), chosen: new Map(), best: new Map(), version: 0, acts: [], earlier: [], views: {}, pace: 2000 };

// Okabe and Ito's colours, which people who see fewer hues tell apart as well; two sets for two backgrounds.
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#00805c", "#b0508a", "#2f8fc4", "#a86b00", "#5b5b5b"],
  dark: ["#56b4e9", "#ff8c42", "#2fcf9f", "#e79ac6", "#8fd0ff", "#f0c040", "#c0c0c0"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const STATUS = { // sign, kind, words, and what they mean where that is not plain
  running: ["▶", "good", "running"], completed: ["✓", "good", "done"],
  waiting: ["‖", "", "waits", "Saved part of the way: others promise more. It goes on when its turn comes."],
  postponed: ["▼", "warn", "postponed", "Saved part of the way because a rule of collapse tripped. It goes on after those that promise more."],
  confirmed: ["✕", "bad", "collapse confirmed", "A rule of collapse tripped, and no later score was better: it was ended."],
  stopped: ["■", "", "stopped", "The search ended it before its last step."],
  failed: ["!", "bad", "failed"], interrupted: ["◌", "warn", "interrupted", "It was asked to stop, or its search ended. It can go on."],
};
const UNFINISHED = ["running", "waiting", "postponed", "interrupted"];

// ------------------------------------------------------------------------------------------ elements

// An element; text is always text: whatever a trial is called, it stays that.
function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) made.style.setProperty(key, v);
    else made.setAttribute(name, value === true ? "" : value);
  }
  return put(made, ...children);
}

// What an element holds from now on, without what is not there.
function put(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return place;
}

function say(text) {
  const box = document.getElementById("say");
  box.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { box.textContent = ""; }, 6000);
}

// ------------------------------------------------------------------------------------------ numbers

function format(value, digits = 4) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "number") {
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const usual = Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6;
    return usual ? Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 12 }) : value.toPrecision(3);
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// Numbers of one column with the same digits, so that their points stand below each other.
function formatter(values) {
  const numbers = values.filter((value) => typeof value === "number" && value !== 0), sizes = numbers.map(Math.abs);
  const decimals = Math.max(0, ...numbers.map((value) => (String(Number(value.toPrecision(4))).split(".")[1] || "").length));
  if (!numbers.length || decimals > 7 || Math.max(...sizes) >= 1e7 || Math.min(...sizes) < 1e-6) return (value) => format(value);
  const even = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return (value) => (typeof value === "number" ? value.toLocaleString("en", even) : format(value));
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.round(seconds), h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60;
  return h ? `${h} h ${m} min` : m ? `${m} min ${whole % 60} s` : `${whole} s`;
}

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// ------------------------------------------------------------------------------------------ asking

async function ask(path, parameters = {}, options = {}) {
  if (act.report) return act.report.ask(path, parameters);
  const query = new URLSearchParams(parameters).toString();
  const reply = await fetch(`/api/${path}${query ? `?${query}` : ""}`, options);
  if (!reply.ok) throw new Error((await reply.text()).trim() || `the server answers ${reply.status}`);
  return reply.json();
}

async function poll() {
  try {
    const state = await ask("state", { since: act.version });
    if (act.server && state.server !== act.server) return restart(); // another process: it may show something else
    act.server = state.server;
    act.offset = Date.now() / 1000 - state.now;
    const changed = state.version !== act.version || act.failed !== "";
    Object.assign(act, { version: state.version, acts: state.acts || [], failed: "", heard: Date.now() });
    if (state.earlier) act.earlier = state.earlier;
    for (const source of state.sources) {
      const before = act.sources.get(source.key);
      if (before && source.began !== before.began) for (const id of [...act.trials.keys()]) if (id.startsWith(`${source.key}.`)) act.trials.delete(id);
      act.sources.set(source.key, source);
    }
    for (const row of state.trials) act.trials.set(row.id, row);
    news();
    if (changed) render();
  } catch (error) {
    act.failed = error.message || "the server does not answer";
    news();
    if (!act.heard) render();
  }
}

function restart() {
  for (const all of [act.trials, act.sources, act.chosen, samples.pictures]) all.clear();
  Object.assign(act, { version: 0, server: null, earlier: [] });
  Object.assign(curves, { data: {}, zoom: null, heights: {}, windows: {} });
  return poll();
}

// For Plotly's texts, which read some HTML and %{...}: whatever a search is called, it stays that.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "%\u200b{");

// Whether what is shown is fresh: said once, in words, in the header.
function news() {
  const chip = document.getElementById("news"), sources = [...act.sources.values()];
  const running = sources.some((source) => source.state === "running"), silent = sources.some((s) => s.state === "silent");
  const [kind, text] = act.report ? ["", "report"]
    : act.failed ? ["error", "no connection"]
    : silent ? ["stale", "no news for a while"] : running ? ["live", "live"] : ["", sources.length ? sources[0].state : ""];
  chip.className = `chip ${kind}`;
  if (chip.textContent !== text) chip.textContent = text;
}

// ------------------------------------------------------------------------------------------ chosen trials

const rows = () => [...act.trials.values()];
const sourceOf = (row) => act.sources.get(row.source);
const shortName = (row) => (sourceOf(row).kind === "run" ? row.name : String(row.index).padStart(3, "0"));
const nameOf = (row) => (act.sources.size > 1 && sourceOf(row).kind !== "run" ? `${sourceOf(row).name} ` : "") + shortName(row);

// Scores are compared within a search, and among single runs over the same data by the same metric; never across.
const contestOf = (source) => (source.kind === "run" ? `${source.data} ${source.metric}` : source.key);
function contests(members = rows()) {
  const found = new Map();
  for (const source of act.sources.values()) {
    const key = contestOf(source), name = source.kind === "run" ? `runs on ${source.data}` : source.name;
    if (!found.has(key)) found.set(key, { key, name, rows: [] });
  }
  for (const row of members) found.get(contestOf(sourceOf(row))).rows.push(row);
  return [...found.values()];
}

// What a score is called: by all sources' metric where they have the same.
function metricName() {
  const names = new Set([...act.sources.values()].map((source) => source.metric.split(" (")[0]));
  return names.size === 1 ? [...names][0] : "score";
}

// Gives a trial the first colour that is free; it keeps it as long as it is in the map.
function takeSlot(slots, id) {
  if (slots.has(id)) return;
  const taken = new Set(slots.values());
  let slot = 0;
  while (taken.has(slot)) slot += 1;
  slots.set(id, slot);
}

function choose(id, on) {
  if (on) takeSlot(act.chosen, id);
  else act.chosen.delete(id);
}

// The chosen trials, or the best ones where none is.
const COLOURED = 6; // of the best, whichever view asks, so that none changes its colour from view to view
function shown(most = COLOURED) {
  const chosen = [...act.chosen.keys()].map((id) => act.trials.get(id));
  if (chosen.length) return chosen;
  const ranked = contests(rows().filter((row) => row.step > 0)).map((one) => one.rows.sort((a, b) => (a.best ?? 1e99) - (b.best ?? 1e99)));
  const longest = Math.max(0, ...ranked.map((mine) => mine.length));
  const turns = Array.from({ length: longest }, (_, i) => ranked.map((mine) => mine[i])).flat(); // each search's best, then each's second
  const best = turns.filter(Boolean).slice(0, COLOURED);
  for (const id of [...act.best.keys()]) if (!best.some((row) => row.id === id)) act.best.delete(id);
  for (const row of best) takeSlot(act.best, row.id);
  return best.slice(0, most);
}

const theme = () => document.documentElement.dataset.theme;
function lookOf(row) {
  const slot = act.chosen.get(row.id) ?? act.best.get(row.id) ?? 0, colours = COLOURS[theme()];
  return { colour: colours[slot % colours.length], dash: DASHES[Math.floor(slot / colours.length) % DASHES.length] };
}

// A line of the trial's colour and dashes, as its curves have them.
const dot = (row) => el("span", { class: "dot", "data-dash": lookOf(row).dash, style: { "--mine": lookOf(row).colour } });

function statusOf(row) {
  const [sign, kind, words, meaning] = STATUS[row.status] || ["", "", row.status];
  return el("span", { class: `status ${kind}`, "data-sign": sign, title: meaning }, words);
}

// Why a trial is where it is, in a sentence.
function whyOf(row) {
  const flag = row.flag ? `${row.flag.signature} at step ${format(row.flag.step)}` : "";
  const confirmed = row.flag && row.flag.confirmed !== null && row.flag.confirmed !== undefined ? ", confirmed" : "";
  const rescued = row.rescues ? `rescued ${row.rescues === 1 ? "once" : `${row.rescues} times`}` : "";
  return [row.reason, flag && flag + confirmed, rescued].filter(Boolean).join("; ");
}
