"""The dashboard's page with all that it shows, as one file that needs no server and no network."""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from typing import Any

from act_ray import jsonfile
from act_ray.dashboard.curves import FIELDS, Curves
from act_ray.dashboard.results import Results
from act_ray.dashboard.server import PAGE, SCRIPTS, plotly_path
from act_ray.dashboard.trial_page import importance, sample_steps, trial_page
from act_ray.runs.folder import grid_name
from act_ray.runs.rows import Row

CURVE_BYTES, SAMPLE_BYTES = 2_500_000, 1_500_000  # at most, of the data; Plotly takes 4.8 MB
POINTS = 240  # of a curve, where there is room
STEPS = 6  # sample grids of a trial, where there is room
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

SHIM = """"use strict";
act.report = (() => {
  const data = JSON.parse(document.getElementById("act-data").textContent);
  const some = (all, names) => Object.fromEntries(names.filter((name) => all[name]).map((name) => [name, all[name]]));
  const pick = (ids, fields) => Object.fromEntries(Object.entries(some(data.curves, ids))
    .map(([id, found]) => [id, some(found, fields)]));
  return {
    async ask(path, given) {
      if (path === "state") return data.state;
      if (path === "curves") return pick(given.ids.split(","), given.fields.split(","));
      if (path === "importance") return data.importance[given.source] || {};
      const found = { trial: data.pages, samples: data.layouts }[path];
      if (!found || !found[given.id]) throw new Error("not part of this report");
      return found[given.id];
    },
    sample: (id, step) => `data:image/png;base64,${(data.samples[id] || {})[step] || ""}`,
  };
})();
"""


def write_report(results: Results) -> str:
    """The file's text."""
    entries = [(source, index) for source in results.sources.values() for index in source.entries]
    entries.sort(key=lambda e: _rank(e[0].entries[e[1]].row))  # the best first: where room ends, the others have less
    ids = [f"{source.key}.{index}" for source, index in entries]
    data = {
        "state": results.state(),
        "curves": dict(zip(ids, _curves(entries), strict=True)),
        "pages": {key: trial_page(*entry) for key, entry in zip(ids, entries, strict=True)},
        "importance": {key: importance(source) for key, source in results.sources.items()},
        **_samples(ids, entries),
    }
    title = ", ".join(source.folder.name for source in results.sources.values())
    text = json.dumps(jsonfile.plain(data), separators=(",", ":")).replace("<", "\\u003c")
    scripts = [plotly_path().read_text(), *_scripts()]
    body = (PAGE / "index.html").read_text().partition("<body>")[2].partition("<script")[0]
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f'<title>act_ray: {html.escape(title)}</title>\n<link rel="icon" href="data:,">\n',
            f"<style>\n{(PAGE / 'style.css').read_text()}</style>\n</head>\n<body>{body}",
            f'<script type="application/json" id="act-data">{text}</script>\n',
            *(f"<script>\n{script}</script>\n" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def _scripts() -> Iterator[str]:
    for name in SCRIPTS:
        if name == "app.js":  # which begins
            yield SHIM
        yield (PAGE / name).read_text()


def _rank(row: Row) -> tuple[bool, float]:
    return row.get("best") is None, row.get("best") or 0.0


def _curves(entries: Sequence[tuple[Any, int]]) -> Iterator[dict[str, Any]]:
    """Each trial's curves, as fine as the room allows."""
    points = max(30, min(POINTS, CURVE_BYTES // max(1, len(entries) * 10 * 28)))
    curves = Curves()
    for source, index in entries:
        run = curves.of(source.run_folder(index), source.config(index))
        found = ((name, run.curve(name, points, 0, 1e12)) for name in FIELDS)
        yield {name: curve for name, curve in found if curve is not None}


def _samples(ids: Sequence[str], entries: Sequence[tuple[Any, int]]) -> dict[str, Any]:
    """The best and the last sample grid of each trial, and for the best trials some in between, while there is room."""
    layouts = {key: sample_steps(*entry) for key, entry in zip(ids, entries, strict=True)}
    samples: dict[str, dict[int, str]] = {key: {} for key in ids}
    room = SAMPLE_BYTES
    for spread in (False, True):
        for key, (source, index) in zip(ids, entries, strict=True):
            steps, best = layouts[key]["steps"], source.entries[index].row.get("best_step")
            between = steps[:: max(1, len(steps) // STEPS)] if spread else []
            for step in {*between, *steps[-1:], *([best] if best in steps else [])} - set(samples[key]):
                picture = (source.run_folder(index).path / "samples" / grid_name(step)).read_bytes()
                if len(picture) * 4 // 3 <= room:
                    samples[key][step] = base64.b64encode(picture).decode()
                    room -= len(picture) * 4 // 3
    for key in ids:
        layouts[key]["steps"] = sorted(samples[key])
    return {"layouts": layouts, "samples": samples}
