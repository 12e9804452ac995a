// One trial: its story, its evidence, its settings, the command that gives it again; and what can be done with it.
"use strict";

act.views.trial = {
  hidden: true,
  draw(view, id) {
    Object.assign(this, { id, seen: null });
    view.replaceChildren(el("p", { class: "empty" }, "Loading …"));
    this.update(view, id);
  },
  async update(view, id = this.id) {
    const seen = JSON.stringify([act.trials.get(id), (act.sources.get(id.split(".")[0]) || {}).state, act.chosen.has(id), theme()]);
    if (seen === this.seen && view.querySelector("h1")) return; // nothing of it has changed: focus and zoom stay
    this.seen = seen;
    const turn = this.turn = (this.turn || 0) + 1;
    let page;
    try { page = await ask("trial", { id }); } catch (error) {
      if (turn !== this.turn || route().join() !== `trial,${id}`) return;
      this.seen = null; // the next news asks again
      view.replaceChildren(el("h1", {}, "Trial"), el("p", { class: "error" }, error.message));
      return;
    }
    if (turn !== this.turn) return; // an answer that was overtaken would hide what is newer
    if (route().join() !== `trial,${id}` || (view.querySelector("textarea") && view.querySelector("textarea").value)) return;
    const row = act.trials.get(id) || page.row, source = sourceOf(row);
    put(view,
      el("h1", {}, source.kind === "run" ? "Run " : "Trial ", row.name, source.kind === "run" ? null : [" ", el("span", { class: "soft" }, `of ${source.name}`)], " ", statusOf(row)),
      el("div", { class: "bar" }, el("label", {}, el("input", { type: "checkbox", checked: act.chosen.has(id),
        onchange: (event) => { choose(id, event.target.checked); render(); } }), "chosen for curves and samples"), this.acts(row)),
      el("div", { class: "cards" }, card(format(row.best), `best ${metricName()}, lower is better${row.best_step ? `, at step ${format(row.best_step)}` : ""}`), card(format(row.last), `last ${metricName()}`),
        card(`${format(row.step)} of ${format(row.total)}`, "steps"), card(duration(row.seconds), "of training"),
        row.diversity === null ? null : card(format(row.diversity, 3), "diversity, of the data's")),
      el("section", {}, el("h2", {}, "Samples"), el("div", { class: "grids", id: "grids" }, el("p", { class: "soft" }, "none yet"))),
      page.standing.length ? el("section", {}, el("h2", {}, "Where it stands"), page.standing.map((line) => el("p", {}, line))) : null,
      page.evidence ? el("section", {}, el("h2", {}, "Evidence"), el("pre", {}, page.evidence.lines.join("\n")), el("p", { class: "soft" }, "Shaded: the steps that the rule looked at. Line: where it tripped. Dotted line: where that was confirmed."), el("div", { class: "panels" },
        chartPanel("‖∇D‖²", "evidence-gp"), chartPanel("score", "evidence-score"))) : null,
      el("section", {}, el("h2", {}, "Story"), page.story.length ? el("ol", { class: "story" }, page.story.map((event) => el("li", {},
        el("time", {}, event.time ? new Date(event.time * 1000).toLocaleString() : ""), event.text))) : el("p", { class: "empty" }, "nothing has happened yet")),
      el("section", {}, el("h2", {}, "Run it again"), el("pre", { tabindex: "0" }, page.rerun), el("button", { type: "button",
        onclick: () => navigator.clipboard.writeText(page.rerun).then(() => say("copied"), () => say("the browser does not let the page copy")) }, "copy"),
        el("p", { class: "soft" }, "its folder: ", el("code", {}, page.location))),
      el("section", {}, el("h2", {}, "Settings that differ from the preset"), page.settings.length ? el("div", { class: "scroll" }, el("table", { class: "settings" },
        el("thead", {}, el("tr", {}, ["setting", "preset", "here"].map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, page.settings.map((one) => el("tr", {}, el("td", {}, breakable(one.name)),
          [one.preset, one.value].map((value) => el("td", { class: typeof value === "number" && "number" }, format(value)))))))) : el("p", { class: "empty" }, "none")),
      el("section", {}, el("h2", {}, "Notes"), page.notes.map((note) => el("p", {}, el("time", { class: "soft" }, new Date(note.time * 1000).toLocaleString()), " ", note.text)),
        act.acts.length ? this.writer(id) : el("p", { class: "soft" }, act.report ? "" : "Start the server with a token to write here.")));
    this.grids(view, row);
    if (page.evidence && page.evidence.window) this.evidence(view, row, { ...row.flag, ...page.evidence });
  },
  // The newest grid, and the best one where that is another.
  async grids(view, row) {
    const { steps } = await ask("samples", { id: row.id }).catch(() => ({ steps: [] })), last = steps[steps.length - 1];
    const found = [[row.best_step, "the best"], [last, "the newest"]].filter(([step], i) => steps.includes(step) && (i || step !== last));
    const figures = await Promise.all(found.map(async ([step, words]) => {
      const image = await picture(row.id, step).catch(() => null), both = step === row.best_step && step === last;
      return image && el("figure", {}, el("figcaption", {}, `${both ? "the newest, and the best" : words}: step ${format(step)}`),
        el("img", { src: image.src, alt: `samples of ${nameOf(row)} at step ${step}` }));
    }));
    const place = view.querySelector("#grids");
    if (place && figures.some(Boolean)) put(place, figures);
  },
  acts(row) {
    if (!act.acts.length) return null;
    const runs = ["running", "silent"].includes(sourceOf(row).state);
    const button = (action, text, words = "", more = {}) => el("button", { type: "button", onclick: () => this.act(row.id, action, words), ...more }, text);
    const stop = () => { if (confirm(`Stop trial ${nameOf(row)}? It saves and ends; it can go on when its search is resumed.`)) this.act(row.id, "stop", ""); };
    return [row.status === "running" ? button("stop", "Stop it", "", { onclick: stop }) : null,
      row.waits ? [button("go_on", "Let it go on", "", { disabled: !runs }), runs ? null : el("span", { class: "soft" }, "its search does not run; resume it first")] : null,
      row.mark === "star" ? button("mark", "★ unmark") : button("mark", "☆ mark", "star")];
  },
  writer(id) {
    const area = el("textarea", { rows: 2, cols: 60, "aria-label": "Note", maxlength: 2000, style: { "max-width": "100%" } });
    return el("div", { class: "bar" }, area, el("button", { type: "button", class: "main", onclick: async () => { const text = area.value; area.value = ""; if (!await this.act(id, "note", text)) area.value = text; } }, "write"));
  },
  async act(id, action, text) {
    try {
      const reply = await ask("act", {}, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, action, text }) });
      say(reply.said);
      this.seen = null;
      await poll();
      render();
      return true;
    } catch (error) { say(error.message); return false; }
  },
  async evidence(view, row, found) {
    try {
      const data = (await ask("curves", { ids: row.id, fields: "gp,score", points: 600 }))[row.id] || {};
      for (const field of ["gp", "score"]) {
        const curve = data[field], place = view.querySelector(`#evidence-${field}`);
        if (place && !curve) place.replaceChildren(el("p", { class: "empty" }, "not measured in this trial"));
        if (!curve || !place) continue;
        draw(place, [{ x: curve.x, y: curve.y, mode: "lines+markers", marker: { size: 3 }, line: { color: COLOURS[theme()][0], width: 1.5 }, hovertemplate: "%{y:.4g}<extra></extra>" }], {
          yaxis: { type: "log" }, xaxis: { title: { text: "steps" } }, shapes: [{ type: "rect", x0: found.window[0], x1: found.window[1], yref: "paper", y0: 0, y1: 1, fillcolor: COLOURS[theme()][1], opacity: 0.18, line: { width: 0 } },
            { type: "line", x0: found.step, x1: found.step, yref: "paper", y0: 0, y1: 1, line: { color: COLOURS[theme()][1], width: 1.5 } },
            ...(typeof found.confirmed === "number" ? [{ type: "line", x0: found.confirmed, x1: found.confirmed, yref: "paper", y0: 0, y1: 1, line: { color: COLOURS[theme()][1], width: 1.5, dash: "dot" } }] : [])] });
      }
    } catch (error) { say(error.message); }
  },
};
