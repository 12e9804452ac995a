"""The dashboard's page with all that it shows, as one file that needs no server and no network."""

import base64
import gzip
import html
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from act_ray import jsonfile
from act_ray.dashboard.curves import FIELDS, Curves
from act_ray.dashboard.results import Results
from act_ray.dashboard.server import PAGE, SCRIPTS, plotly_path
from act_ray.dashboard.trial_page import importance, sample_steps, trial_page
from act_ray.runs.folder import grid_name
from act_ray.runs.rows import Row

CURVE_BYTES, SAMPLE_BYTES = 6_000_000, 4_500_000  # at most, before packing and after; Plotly takes 1.9 MB packed
POINTS = 240  # of a curve, where there is room
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

SHIM = """"use strict";
act.report = (() => {
  const data = window.actData;
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
    sample: (id, step) => `data:image/webp;base64,${(data.samples[id] || {})[step] || ""}`,
  };
})();
"""


UNPACK = """"use strict";
(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("packed").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
})().catch((error) => {
  const why = `this file cannot be unpacked; it needs a browser of 2023 or newer (${error.message})`;
  document.getElementById("view").textContent = why;
});
"""


def write_report(results: Results, say: Callable[[str], None] = lambda line: None, above: str = "") -> str:
    """The file's text. `say` is told what there was no room for; above: HTML that comes before the page."""
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
    kept, there = sum(map(len, data["samples"].values())), sum(one["of"] for one in data["layouts"].values())
    if kept < there:
        say(f"{kept} of {there} sample grids are in it: as many as fit, each trial's best, first and last before more")
    title = ", ".join(source.folder.name for source in results.sources.values())
    text = json.dumps(jsonfile.plain(data), separators=(",", ":"))
    script = "\n".join([plotly_path().read_text(), f"window.actData = {text};", *_scripts()])
    packed = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
    body = (PAGE / "index.html").read_text().partition("<body>")[2].partition("<script")[0]
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f'<title>act_ray: {html.escape(title)}</title>\n<link rel="icon" href="data:,">\n',
            f"<style>\n{(PAGE / 'style.css').read_text()}</style>\n</head>\n<body>{above}{body}",
            f'<script type="application/octet-stream" id="packed">{packed}</script>\n<script>\n{UNPACK}</script>\n',
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
        run = curves.of(source.run_folder(index), partial(source.config, index))
        found = ((name, run.curve(name, points, 0, 1e12)) for name in FIELDS)
        yield {name: curve for name, curve in found if curve is not None}


def _samples(ids: Sequence[str], entries: Sequence[tuple[Any, int]]) -> dict[str, Any]:
    """The best, the first and the last sample grid of each trial, then the others of the best, while there is room.

    A trial's layout has `of`: how many grids there are, of which the report may hold fewer.
    """
    layouts = {key: sample_steps(*entry) for key, entry in zip(ids, entries, strict=True)}
    samples: dict[str, dict[int, str]] = {key: {} for key in ids}
    room, full = SAMPLE_BYTES, False
    for turn in range(4):
        for key, (source, index) in zip(ids, entries, strict=True):
            steps, best = layouts[key]["steps"], source.entries[index].row.get("best_step")
            wanted = ([best] if best in steps else steps[-1:], steps[:1], steps[-1:], steps)[turn]
            for step in wanted:
                if step in samples[key] or full:
                    continue
                picture = _packed(source.run_folder(index).path / "samples" / grid_name(step))
                if picture is None:
                    continue
                full = len(picture) > room
                if not full:
                    samples[key][step] = picture
                    room -= len(picture)
    for key in ids:
        layouts[key] |= {"of": len(layouts[key]["steps"]), "steps": sorted(samples[key])}
    return {"layouts": layouts, "samples": samples}


def _packed(path: Path) -> str | None:
    """The picture as WebP, which loses nothing and takes half of PNG's bytes; None where that cannot be."""
    file = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.save(file, "WEBP", lossless=True)
    except (OSError, ValueError):
        return None
    return base64.b64encode(file.getvalue()).decode()
