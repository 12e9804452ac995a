// The address, which holds what is chosen and shown, and which view is drawn.
"use strict";

// What is chosen and how it is shown stands in the address, so that a reload keeps it and a link shares it:
// name -> [read it as text, take it from text]. What is as at first is left out.
const list = (text) => text.split(",").filter(Boolean);
const flag = (of, key) => [() => (of[key] ? "1" : "0"), (text) => { of[key] = text === "1"; }];
const word = (of, key) => [() => of[key] || "", (text) => { of[key] = text; }];
const ADDRESS = {
  chosen: [() => [...act.chosen.keys()].join(), (text) => { act.chosen.clear(); for (const id of list(text)) choose(id, true); }],
  by: word(act.views.overview, "by"),
  filter: word(table, "filter"), sort: [() => table.sort.join(), (text) => { table.sort = [text.split(",")[0], text.endsWith(",-1") ? -1 : 1]; }],
  hide: flag(table, "hide"), group: flag(table, "group"), without: [() => [...table.hidden].join(), (text) => { table.hidden = new Set(list(text)); }],
  q: [() => Object.keys(CURVES).filter((field) => curves.fields.has(field)).join(), (text) => { curves.fields = new Set(list(text).filter((field) => Object.hasOwn(CURVES, field))); }],
  x: [() => curves.x, (text) => { curves.x = Object.hasOwn(X_TITLES, text) ? text : "steps"; }], log: flag(curves, "log"),
  smooth: [() => String(curves.smooth), (text) => { curves.smooth = Math.max(0, Math.min(1, Number(text) || 0)); }],
  zoom: [() => (curves.zoom || []).join(), (text) => { const ends = list(text).map(Number); curves.zoom = ends.length === 2 && ends.every(Number.isFinite) ? ends : null; }],
  at: [() => String(samples.at), (text) => { samples.at = Math.max(0, Math.min(1, Number(text) || 0)); }],
  cell: [() => String(samples.cell ?? ""), (text) => { samples.cell = /^\d{1,4}$/.test(text) ? Number(text) : null; }],
  against: word(space, "against"),
};
const AT_FIRST = Object.fromEntries(Object.entries(ADDRESS).map(([name, [read]]) => [name, read()]));

function remember() {
  const said = Object.entries(ADDRESS).map(([name, [read]]) => [name, read()]).filter(([name, text]) => text !== AT_FIRST[name]);
  const path = location.hash.split("?")[0] || "#/overview", query = new URLSearchParams(said).toString().replaceAll("%2C", ",");
  const wanted = query ? `${path}?${query}` : path;
  if (location.hash !== wanted && (query || location.hash.includes("?"))) history.replaceState({ visited: true }, "", wanted);
}

// Of an address from elsewhere. Back and Forward go to where one was, with what is chosen now.
function recall() {
  const [, query] = location.hash.split("?");
  if (query === undefined) return; // a link within the page: all stays as it is
  const said = new URLSearchParams(query);
  for (const [name, [, take]] of Object.entries(ADDRESS)) take(said.get(name) ?? AT_FIRST[name]);
}

// ------------------------------------------------------------------------------------------ which view

let current = "";
const lefts = {}; // how far each view was scrolled when a trial was opened from it

function route() {
  const [, name = "overview", id = ""] = location.hash.split("?")[0].split("/");
  return [name in act.views ? name : "overview", decodeURIComponent(id)];
}

// Draw the view anew where it is another one; else let it take in what is new.
function render() {
  const view = document.getElementById("view"), [name, id] = route(), key = `${name} ${id}`;
  if (!act.sources.size) {
    view.replaceChildren(el("p", { class: act.failed ? "error" : "empty" }, act.failed ? `nothing can be shown: ${act.failed}` : "Loading …"));
    return;
  }
  for (const id of [...act.chosen.keys()]) if (!act.trials.has(id)) choose(id, false); // an address may name what is not here
  const all = [...act.sources.values()].map((source) => source.name), names = all.slice(0, 3).join(", ") + (all.length > 3 ? ` and ${all.length - 3} more` : "");
  document.getElementById("title").textContent = names;
  document.title = `${name === "trial" ? `Trial ${act.trials.has(id) ? act.trials.get(id).name : ""}` : act.views[name].name} – ${names} – act_ray`;
  for (const tab of document.querySelectorAll("#tabs a")) {
    const mine = tab.hash.split("?")[0].slice(2);
    if (mine === name) tab.setAttribute("aria-current", "page");
    else if (mine === "trials" && name === "trial") tab.setAttribute("aria-current", "true"); // a trial is one of them
    else tab.removeAttribute("aria-current");
  }
  if (current === key) act.views[name].update(view, id);
  else { current = key; view.onkeydown = null; act.views[name].draw(view, id); }
  footer();
  remember();
}

function footer() {
  const place = document.getElementById("chosen"), chosen = [...act.chosen.keys()].map((id) => act.trials.get(id));
  const left = place.scrollLeft, focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  place.replaceChildren(...(chosen.length ? [el("span", { class: "soft" }, "chosen:"), ...chosen.slice(0, 12).map((row) => el("span", {}, dot(row), " ", link(row), " ",
    el("button", { type: "button", "aria-label": `no longer choose ${nameOf(row)}`, onclick: () => { choose(row.id, false); render(); } }, "×"))),
  chosen.length > 12 ? el("span", {}, `and ${chosen.length - 12} more`) : null, el("button", { type: "button", onclick: () => { act.chosen.clear(); render(); } }, "none")].filter(Boolean) : []));
  const again = focused && [...place.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === focused);
  if (again) again.focus({ preventScroll: true });
  place.scrollLeft = left;
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", `Use ${name === "dark" ? "light" : "dark"} colours`);
}

// The system's choice, also while it changes, until somebody has clicked.
function themes() {
  const system = matchMedia("(prefers-color-scheme: dark)"), again = (name) => { setTheme(name); current = ""; render(); };
  let clicked = null;
  try { clicked = localStorage.getItem("act_ray.theme.clicked"); } catch { /* so be it */ }
  setTheme(clicked === "dark" || clicked === "light" ? clicked : system.matches ? "dark" : "light");
  system.addEventListener("change", () => { if (!clicked) again(system.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    clicked = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("act_ray.theme.clicked", clicked); } catch { /* a page without storage forgets */ }
    again(clicked);
  });
}

function begin() {
  themes();
  recall();
  addEventListener("hashchange", () => {
    const from = current.split(" ")[0];
    lefts[from] = scrollY;
    if (!history.state) recall();
    render();
    scrollTo(0, from === "trial" ? lefts[route()[0]] || 0 : 0);
    document.getElementById("view").focus({ preventScroll: true });
  });
  for (const what of ["change", "input", "click", "keyup"]) addEventListener(what, remember);
  poll().then(render);
  if (!act.report) setInterval(poll, act.pace);
}

begin();
