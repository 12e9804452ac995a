// The trials as a table: sort, filter by an expression, group by all but the seed, choose columns.
"use strict";

const table = { sort: ["best", 1], filter: "", hide: false, group: false, hidden: new Set(["source", "total", "seconds", "diversity"]), at: [0, 0] };
const FIXED = { // key -> [heading, unit, value]
  source: ["search", "", (row) => sourceOf(row).name],
  status: ["status", "", (row) => row.status],
  best: ["best score", "lower is better", (row) => row.best],
  best_step: ["at step", "", (row) => row.best_step],
  last: ["last score", "", (row) => row.last],
  diversity: ["diversity", "of the data's", (row) => row.diversity],
  step: ["steps run", "", (row) => row.step],
  total: ["planned", "steps", (row) => row.total],
  seconds: ["training", "s", (row) => row.seconds],
};
const MORE = { // what is no column of its own, and can be filtered by all the same
  trial: (row) => row.index, why: (row) => whyOf(row), flag: (row) => (row.flag ? row.flag.signature : ""),
  seed: (row) => row.seed, name: (row) => row.name, rescues: (row) => row.rescues, mark: (row) => row.mark, index: (row) => row.index,
};
const breakable = (name) => name.split(/(?<=\.)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])); // after its dots
const headingOf = (name) => (FIXED[name] ? FIXED[name][0].replace("score", metricName()) : name);
const parameters = () => [...new Set([...act.sources.values()].flatMap((source) => source.parameters))];
const valueOf = (row, name) => (name in row.values ? row.values[name] : (FIXED[name] ? FIXED[name][2] : MORE[name] || (() => undefined))(row));

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

// A trial that still runs would draw the mean of those that do not to where it is now.
const settled = (group) => { const done = group.filter((row) => row.status !== "running"); return done.length ? done : group; };

// Mean, and standard deviation over how many.
function spread(values, text) {
  const known = values.filter((value) => typeof value === "number");
  if (!known.length) return [null, "–"];
  const mean = known.reduce((a, b) => a + b) / known.length;
  const sd = Math.sqrt(known.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, known.length - 1));
  return [mean, known.length > 1 ? `${text(mean)} ± ${format(sd, 2)} (n=${known.length})` : text(mean)];
}

// ------------------------------------------------------------------------------------------ drawing

const ordered = (way) => (a, b) => (a === b ? 0 : a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : (a < b ? -1 : 1) * way);

// All columns of the trials that are shown, one search after the other.
function csvText() {
  const [by, way] = table.sort, order = ordered(way), names = [...Object.keys(FIXED).filter((name) => name !== "source"), ...parameters().filter((name) => name !== "train.seed")];
  const flag = (row, key) => (row.flag ? row.flag[key] : null);
  const head = ["search", "trial", "seed", ...names.map((name) => (name in FIXED ? FIXED[name][0] : name)), "flag", "flagged at step", "confirmed at step", "rescues", "why"];
  const lines = contests(filtered()[0]).flatMap((one) => one.rows.sort((a, b) => order(valueOf(a, by), valueOf(b, by)))).map((row) =>
    [sourceOf(row).name, shortName(row), row.seed, ...names.map((name) => valueOf(row, name)), flag(row, "signature"), flag(row, "step"), flag(row, "confirmed"), row.rescues, whyOf(row)]);
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : typeof value !== "number" && /^[=+@\t\r-]/.test(String(value)) ? `'${value}` : String(value); // no formula
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

function saveCsv() {
  const address = URL.createObjectURL(new Blob([csvText()], { type: "text/csv" }));
  el("a", { href: address, download: "trials.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

act.views.trials = {
  name: "Trials",
  draw(view) {
    const input = el("input", {
      type: "search", value: table.filter, "aria-label": "Filter", "aria-describedby": "problem", placeholder: "filter, e.g. drift and best < 80",
      oninput: (event) => { table.filter = event.target.value; this.fill(view); },
    });
    const box = (key, text) => el("label", {}, el("input", {
      type: "checkbox", checked: table[key], onchange: (event) => { table[key] = event.target.checked; this.fill(view); },
    }), text);
    const columns = el("details", {}, el("summary", {}, "Columns"), el("div", { class: "choices" },
      [...Object.keys(FIXED), ...parameters()].map((name) => el("label", {}, el("input", {
        type: "checkbox", checked: !table.hidden.has(name),
        onchange: (event) => { table.hidden[event.target.checked ? "delete" : "add"](name); this.fill(view); },
      }), headingOf(name)))));
    const names = [...Object.keys(MORE).slice(0, -1), ...Object.keys(FIXED).filter((name) => name !== "source" || act.sources.size > 1).map(headingOf), ...parameters()];
    const help = el("details", { id: "help" }, el("summary", {}, "What the filter understands"), el("p", { class: "soft" },
      "Names: ", names.map((name, i) => [i ? ", " : "", el("code", {}, name)]), ". They are compared by <, <=, =, !=, >=, >, and joined by and, or, not and brackets. ",
      "Any other word is looked for in a trial's name, its status, its why and its search."));
    const csv = el("button", { type: "button", title: "the trials that the filter lets pass, in this order", onclick: saveCsv }, "CSV");
    view.replaceChildren(
      el("h1", {}, "Trials"),
      el("div", { class: "bar" }, input, box("hide", "hide what was stopped"), box("group", "group by all but the seed: mean ± standard deviation"), csv),
      el("p", { class: "error", id: "problem", role: "status" }), el("div", { class: "bar" }, help, columns),
      el("div", { class: "scroll table", tabindex: "0", role: "region", "aria-label": "Table of trials",
        onscroll: (event) => { table.at = [event.target.scrollLeft, event.target.scrollTop]; } }, el("table")));
    const at = table.at;
    this.fill(view);
    view.querySelector(".scroll").scrollTo(...at); // back from a trial, where one was
  },
  update(view) { this.fill(view); },
  fill(view) {
    const [members, problem] = filtered(), [by, way] = table.sort;
    view.querySelector("#problem").textContent = problem && `filter: ${problem}`;
    if (problem) view.querySelector("#help").open = true;
    const names = [...Object.keys(FIXED), ...parameters()].filter((name) => !table.hidden.has(name)
      && (name !== "source" || act.sources.size > 1));
    const order = ordered(way);
    const texts = Object.fromEntries(names.map((name) => [name, formatter(members.map((row) => valueOf(row, name)))]));
    const lines = (mine) => (table.group ? this.groups(mine, names, texts, by, order)
      : mine.sort((a, b) => order(valueOf(a, by), valueOf(b, by))).map((row) => this.row(row, names, texts)));
    const parts = contests(members).filter((one) => one.rows.length), several = contests().length > 1;
    const body = parts.flatMap((one) => [several ? el("tr", { class: "part" }, el("th", { scope: "rowgroup", colspan: names.length + 2 },
      el("span", {}, one.name, el("span", { class: "soft" }, ` ${one.rows.length} of ${contests().find((all) => all.key === one.key).rows.length} trials`)))) : null, ...lines(one.rows)]);
    const place = view.querySelector("table"), focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.id : null;
    const nothing = problem ? "the filter cannot be read" : act.trials.size ? "no trial passes the filter" : "no trial has begun yet";
    put(place, el("thead", {}, this.head(view, names)), el("tbody", {}, body.length ? body : el("tr", {}, el("td", { colspan: names.length + 2, class: "empty" }, nothing))));
    if (focused) { const again = place.querySelector(`[data-id="${CSS.escape(focused)}"]`); if (again) again.focus({ preventScroll: true }); }
  },
  head(view, names) {
    const [by, way] = table.sort, numeric = rows().some((row) => typeof valueOf(row, by) === "number");
    const said = numeric ? (way > 0 ? "lowest first" : "highest first") : (way > 0 ? "A to Z" : "Z to A"); // an arrow could mean either
    return el("tr", {}, el("th", { class: "left", scope: "col" }, table.group ? "seeds" : "trial"), names.flatMap((name) => {
      const unit = FIXED[name] ? FIXED[name][1] : "", sorted = by === name ? (way > 0 ? "ascending" : "descending") : null;
      return [el("th", { scope: "col", "aria-sort": sorted, class: name === "status" && "left" }, el("button", {
        type: "button", title: sorted ? `sorted, ${said}` : "sort by this", "data-name": name,
        onclick: () => { table.sort = [name, by === name ? -way : 1]; this.fill(view); focusHead(view, name); },
      }, breakable(headingOf(name)), unit ? el("small", {}, ` (${unit})`) : "", sorted ? el("small", {}, ` ${said}`) : "")),
      name === "status" && !table.group ? el("th", { class: "left why", scope: "col" }, "why") : null];
    }));
  },
  groups(members, names, texts, by, order) {
    const groups = grouped(members).map((group) => [group, Object.fromEntries(names.map((name) =>
      [name, ["best", "last", "diversity", "step", "seconds", "best_step"].includes(name) ? spread(settled(group).map((row) => valueOf(row, name)), texts[name]) : null]))]);
    const key = ([group, found]) => (found[by] ? found[by][0] : valueOf(group[0], by));
    return groups.sort((a, b) => order(key(a), key(b))).map(([group, found]) => el("tr", {},
      el("td", { class: "left" }, group.map((row) => [link(row, shortName(row)), " "])),
      names.map((name) => el("td", {}, found[name] ? found[name][1]
        : name === "train.seed" ? group.map((row) => row.seed).join(", ") : name === "status" ? counts(group) : texts[name](valueOf(group[0], name))))));
  },
  row(row, names, texts) {
    const on = act.chosen.has(row.id), why = whyOf(row);
    return el("tr", { class: on ? "chosen" : "", style: { "--mine": lookOf(row).colour } },
      el("td", { class: "left" }, el("label", {}, el("input", {
        type: "checkbox", checked: on, "data-id": row.id, "aria-label": `choose ${nameOf(row)}`,
        onchange: (event) => { choose(row.id, event.target.checked); render(); },
      })), " ", link(row, shortName(row)), row.mark === "star" ? " ★" : row.mark === "doubt" ? " ?" : "", why ? el("div", { class: "narrow soft" }, why) : null),
      names.map((name) => (name === "status" ? [el("td", { class: "left" }, statusOf(row)), el("td", { class: "why" }, why)] : el("td", {}, texts[name](valueOf(row, name))))));
  },
};

const link = (row, name = nameOf(row)) => el("a", { href: `#/trial/${row.id}` }, name);
function counts(group) {
  const found = new Map();
  for (const row of group) found.set(row.status, (found.get(row.status) || 0) + 1);
  return [...found].map(([status, count]) => `${count} ${STATUS[status][2]}`).join(", ");
}
function focusHead(view, name) {
  const button = view.querySelector(`[data-name="${CSS.escape(name)}"]`);
  if (button) button.focus();
}
