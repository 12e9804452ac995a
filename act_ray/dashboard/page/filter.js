// The expression over the table's columns that says which trials are shown.
"use strict";

// What a filter may call each column, in small letters: by its key, or as its heading says.
function filterNames() {
  const names = [...Object.keys(FIXED), ...parameters(), ...Object.keys(MORE)];
  return new Map([...names.map((name) => [name.toLowerCase(), name]), ...Object.keys(FIXED).flatMap((name) =>
    [[FIXED[name][0], name], [headingOf(name).toLowerCase(), name]])]);
}

const TOKEN = /"[^"]*"|<=|>=|!=|==|[<>=()]|[^\s<>=!()"]+/g;
const OPERATOR = /^([<>]=?|!=|==?)$/;
const textOf = (row) => [row.status, STATUS[row.status][2], whyOf(row), sourceOf(row).name, row.name, row.mark, String(row.index).padStart(3, "0")].join(" ").toLowerCase();

// `best < 80 and not (status = done or flag)`: comparisons of a column with a number, a word or another column, joined by and, or, not;
// a name alone asks whether there is one, and any other word is looked for in a trial's texts.
function compile(text) {
  const tokens = text.match(TOKEN) || [], names = filterNames();
  const stray = text.replace(TOKEN, "").trim();
  if (stray) throw new Error(`what is ${stray[0]} doing there? (not and != are known)`);
  let at = 0;
  const next = () => tokens[at++], peek = (word) => (tokens[at] || "").toLowerCase() === word;
  const either = () => {
    let left = both();
    while (peek("or")) { at += 1; const [a, b] = [left, both()]; left = (row) => a(row) || b(row); }
    return left;
  };
  const both = () => {
    let left = one();
    while (at < tokens.length && !peek("or") && !peek(")")) { // "and" may be left out
      if (peek("and")) at += 1;
      const [a, b] = [left, one()];
      left = (row) => a(row) && b(row);
    }
    return left;
  };
  const column = () => { // the longest that is one: headings may be of several words
    for (let many = 3; many; many -= 1) {
      const found = names.get(tokens.slice(at, at + many).join(" ").toLowerCase());
      if (found && at + many <= tokens.length) { at += many; return found; }
    }
    return null;
  };
  const one = () => {
    if (peek("not")) { at += 1; const inner = one(); return (row) => !inner(row); }
    if (peek("(")) {
      at += 1;
      const inner = either();
      if (next() !== ")") throw new Error("a closing bracket is missing");
      return inner;
    }
    if (at >= tokens.length) throw new Error("it ends too early");
    const name = column();
    if (name === null) return plainWord();
    if (!OPERATOR.test(tokens[at] || "")) return (row) => ![null, undefined, "", false].includes(valueOf(row, name));
    const op = next(), other = column();
    if (other !== null) return comparison(name, op, (row) => valueOf(row, other));
    const word = next();
    if (word === undefined) throw new Error(`${name} ${op} what?`);
    return comparison(name, op, word.replace(/^"|"$/g, ""));
  };
  const plainWord = () => {
    const word = next();
    if (OPERATOR.test(word) || word === ")") throw new Error(`what is ${word} doing there?`);
    if (OPERATOR.test(tokens[at] || "")) {
      const near = [...names.keys()].filter((known) => known.includes(word.toLowerCase()) || word.toLowerCase().includes(known)).slice(0, 3);
      throw new Error(`no column ${word}${near.length ? `; did you mean ${near.join(", ")}?` : ""}`);
    }
    const wanted = word.replace(/^"|"$/g, "").toLowerCase();
    return (row) => textOf(row).includes(wanted);
  };
  if (!tokens.length) return () => true;
  const found = either();
  if (at < tokens.length) throw new Error(`what is ${tokens[at]} doing there?`);
  return found;
}

// `to` is a text, or what gives a trial's value of another column.
function comparison(name, op, to) {
  return (row) => {
    const wanted = typeof to === "string" ? to : to(row), number = wanted === "" ? NaN : Number(wanted ?? NaN);
    const value = name === "status" && wanted === STATUS[row.status][2] ? wanted : valueOf(row, name);
    if (wanted === null || wanted === undefined) return op === "!="; // of another column, and not there
    if (name === "why" && wanted && op.includes("=")) return value.toLowerCase().includes(wanted.toLowerCase()) === (op !== "!="); // part of a sentence
    if (value === null || value === undefined || (value === "" && op !== "!=" && op[0] !== "=")) return op === "!=";
    const [a, b] = typeof value === "number" && !Number.isNaN(number) ? [value, number] : [String(value ?? ""), String(wanted)];
    return { "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b, "!=": a !== b, "=": a === b, "==": a === b }[op];
  };
}

// A filter that cannot be read lets nothing pass: rows below it would look as if they had matched.
function filtered() {
  let keep = () => true, problem = "";
  try { keep = compile(table.filter); } catch (error) { problem = error.message; keep = () => false; }
  const over = ["confirmed", "stopped", "failed", "interrupted"];
  return [rows().filter((row) => keep(row) && !(table.hide && over.includes(row.status))), problem];
}
