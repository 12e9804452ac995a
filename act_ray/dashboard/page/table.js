// The trials as a table: sort, filter by an expression, group by all but the seed, choose columns.
"use strict";

const table = { sort: ["best", 1], filter: "", hide: false, group: false, hidden: new Set(["source", "total", "seconds", "diversity"]) };
const FIXED = { // key -> [heading, unit, value]
  source: ["search", "", (row) => sourceOf(row).name],
  status: ["status", "", (row) => row.status],
  best: ["best score", "", (row) => row.best],
  best_step: ["at step", "", (row) => row.best_step],
  last: ["last score", "", (row) => row.last],
  diversity: ["diversity", "of the data's", (row) => row.diversity],
  step: ["steps run", "", (row) => row.step],
  total: ["planned", "steps", (row) => row.total],
  seconds: ["training", "s", (row) => row.seconds],
};

// ------------------------------------------------------------------------------------------ the filter

// `best < 80 and not (status = confirmed or flag)`: comparisons of a column with a number or a word, joined.
function compile(text) {
  const tokens = text.match(/"[^"]*"|<=|>=|!=|==|[<>=()]|[^\s<>=!()"]+/g) || [];
  let at = 0;
  const next = () => tokens[at++], peek = (word) => (tokens[at] || "").toLowerCase() === word;
  const either = () => {
    let left = both();
    while (peek("or")) { at += 1; const [a, b] = [left, both()]; left = (row) => a(row) || b(row); }
    return left;
  };
  const both = () => {
    let left = one();
    while (peek("and")) { at += 1; const [a, b] = [left, one()]; left = (row) => a(row) && b(row); }
    return left;
  };
  const one = () => {
    if (peek("not")) { at += 1; const inner = one(); return (row) => !inner(row); }
    if (peek("(")) {
      at += 1;
      const inner = either();
      if (next() !== ")") throw new Error("a closing bracket is missing");
      return inner;
    }
    const name = next();
    if (name === undefined) throw new Error("it ends too early");
    if (!valueNames().has(name)) {
      const near = [...valueNames()].filter((known) => known.includes(name) || name.includes(known)).slice(0, 3);
      throw new Error(`no column ${name}${near.length ? `; did you mean ${near.join(", ")}?` : ""}`);
    }
    if (!/^([<>]=?|!=|==?)$/.test(tokens[at] || "")) return (row) => Boolean(valueOf(row, name));
    const op = next(), word = next();
    if (word === undefined) throw new Error(`${name} ${op} what?`);
    const wanted = word.replace(/^"|"$/g, ""), number = wanted === "" ? NaN : Number(wanted);
    return (row) => {
      const value = name === "status" && wanted === STATUS[row.status][2] ? wanted : valueOf(row, name);
      if (value === null || value === undefined || (value === "" && op !== "!=" && op[0] !== "=")) return op === "!=";
      const [a, b] = typeof value === "number" && !Number.isNaN(number) ? [value, number] : [String(value ?? ""), wanted];
      return { "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b, "!=": a !== b, "=": a === b, "==": a === b }[op];
    };
  };
  if (!tokens.length) return () => true;
  const found = either();
  if (at < tokens.length) throw new Error(`what is ${tokens[at]} doing there?`);
  return found;
}

const parameters = () => [...new Set([...act.sources.values()].flatMap((source) => source.parameters))];
const valueNames = () => new Set([...Object.keys(FIXED), ...parameters(), "flag", "rescues", "mark", "seed", "name", "index"]);
function valueOf(row, name) {
  if (name in row.values) return row.values[name];
  if (name in FIXED) return FIXED[name][2](row);
  return name === "flag" ? (row.flag ? row.flag.signature : "") : row[name];
}

function filtered() {
  let keep = () => true, problem = "";
  try { keep = compile(table.filter); } catch (error) { problem = error.message; }
  const over = ["confirmed", "stopped", "failed"];
  return [rows().filter((row) => keep(row) && !(table.hide && over.includes(row.status))), problem];
}

// ------------------------------------------------------------------------------------------ groups

function grouped(members) {
  const groups = new Map();
  for (const row of members) {
    const { "train.seed": _, ...values } = row.values;
    const key = `${row.source} ${JSON.stringify(values)}`;
    groups.set(key, [...(groups.get(key) || []), row]);
  }
  return [...groups.values()];
}

function spread(values) {
  const known = values.filter((value) => typeof value === "number");
  if (!known.length) return [null, "–"];
  const mean = known.reduce((a, b) => a + b) / known.length;
  const sd = Math.sqrt(known.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, known.length - 1));
  return [mean, known.length > 1 ? `${format(mean)} ± ${format(sd, 2)}` : format(mean)];
}

// ------------------------------------------------------------------------------------------ drawing

act.views.trials = {
  name: "Trials",
  draw(view) {
    const input = el("input", {
      type: "search", value: table.filter, "aria-label": "Filter", placeholder: "filter, e.g. best < 80 and loss.w >= 0.7",
      oninput: (event) => { table.filter = event.target.value; this.fill(view); },
    });
    const box = (key, text) => el("label", {}, el("input", {
      type: "checkbox", checked: table[key], onchange: (event) => { table[key] = event.target.checked; this.fill(view); },
    }), text);
    const columns = el("details", {}, el("summary", {}, "Columns"), el("div", { class: "choices" },
      [...Object.keys(FIXED), ...parameters()].map((name) => el("label", {}, el("input", {
        type: "checkbox", checked: !table.hidden.has(name),
        onchange: (event) => { table.hidden[event.target.checked ? "delete" : "add"](name); this.fill(view); },
      }), FIXED[name] ? FIXED[name][0] : name))));
    const csv = act.report ? null : el("a", { href: "/api/table.csv", download: "trials.csv" }, "CSV");
    view.replaceChildren(
      el("h1", {}, "Trials"),
      el("div", { class: "bar" }, input, box("hide", "hide what was stopped"), box("group", "group by all but the seed"), csv),
      el("p", { class: "error", id: "problem", role: "status" }), columns,
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of trials" }, el("table")));
    this.fill(view);
  },
  update(view) { this.fill(view); },
  fill(view) {
    const [members, problem] = filtered();
    view.querySelector("#problem").textContent = problem && `filter: ${problem}`;
    const names = [...Object.keys(FIXED), ...parameters()].filter((name) => !table.hidden.has(name)
      && (name !== "source" || act.sources.size > 1));
    const [by, way] = table.sort;
    const head = el("tr", {}, el("th", { class: "left", scope: "col" }, table.group ? "seeds" : "trial"), names.map((name) => {
      const [heading, unit] = FIXED[name] || [name, ""];
      const sorted = by === name ? (way > 0 ? "ascending" : "descending") : null;
      return el("th", { scope: "col", "aria-sort": sorted, class: name === "status" && "left" }, el("button", {
        type: "button", onclick: () => { table.sort = [name, by === name ? -way : 1]; this.fill(view); focusHead(view, name); },
        "data-name": name,
      }, heading.split(/(?<=\.)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])), unit ? ` (${unit})` : "", sorted ? (way > 0 ? " ↑" : " ↓") : ""));
    }));
    if (!table.group && names.includes("status")) head.children[1 + names.indexOf("status")].after(el("th", { class: "left why", scope: "col" }, "why"));
    const order = (a, b) => (a === b ? 0 : a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : (a < b ? -1 : 1) * way);
    let body;
    if (table.group) {
      const groups = grouped(members).map((group) => [group, Object.fromEntries(names.map((name) =>
        [name, ["best", "last", "diversity", "step", "seconds", "best_step"].includes(name) ? spread(group.map((row) => valueOf(row, name))) : null]))]);
      const key = ([group, found]) => (found[by] ? found[by][0] : valueOf(group[0], by));
      body = groups.sort((a, b) => order(key(a), key(b))).map(([group, found]) => el("tr", {},
        el("td", { class: "left" }, group.map((row) => [link(row), " "])),
        names.map((name) => el("td", {}, found[name] ? found[name][1]
          : name === "train.seed" ? group.map((row) => row.seed).join(", ") : name === "status" ? counts(group) : format(valueOf(group[0], name))))));
    } else {
      body = members.sort((a, b) => order(valueOf(a, by), valueOf(b, by))).map((row) => this.row(row, names));
    }
    const place = view.querySelector("table"), focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.id : null;
    place.replaceChildren(el("thead", {}, head), el("tbody", {}, body.length ? body
      : el("tr", {}, el("td", { colspan: names.length + 2, class: "empty" }, act.trials.size ? "no trial passes the filter" : "no trial has begun yet"))));
    if (focused) { const again = place.querySelector(`[data-id="${CSS.escape(focused)}"]`); if (again) again.focus(); }
  },
  row(row, names) {
    const on = act.chosen.has(row.id);
    return el("tr", { class: on ? "chosen" : "", style: { "--mine": lookOf(row).colour } },
      el("td", { class: "left" }, el("label", {}, el("input", {
        type: "checkbox", checked: on, "data-id": row.id, "aria-label": `choose ${nameOf(row)}`,
        onchange: (event) => { choose(row.id, event.target.checked); render(); },
      })), " ", link(row), row.mark === "star" ? " ★" : row.mark === "doubt" ? " ?" : ""),
      names.map((name) => (name === "status" ? [el("td", { class: "left" }, statusOf(row)), el("td", { class: "why" }, whyOf(row))] : el("td", {}, format(valueOf(row, name))))));
  },
};

const link = (row) => el("a", { href: `#/trial/${row.id}` }, nameOf(row));
function counts(group) {
  const found = new Map();
  for (const row of group) found.set(row.status, (found.get(row.status) || 0) + 1);
  return [...found].map(([status, count]) => `${count} ${STATUS[status][2]}`).join(", ");
}
function focusHead(view, name) {
  const button = view.querySelector(`[data-name="${CSS.escape(name)}"]`);
  if (button) button.focus();
}
