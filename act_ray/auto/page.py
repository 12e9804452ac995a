"""What stands above the search's own page in report.html: data, choice and why, scores, samples, how to use it."""

import base64
import html
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from act_ray.auto.journal import Found, Journal
from act_ray.auto.plan import Plan
from act_ray.data.shards import about, open_data
from act_ray.runs.progress import format_seconds
from act_ray.tune.results import format_value
from act_ray.typed import typed

STYLE = "padding: 16px; max-width: 1600px; margin: 0 auto"


def summary(folder: Path, journal: Journal) -> str:
    """The part of the page, as HTML that needs nothing from elsewhere."""
    done = journal.done
    found, plan = done["repeats"], Plan(**done["plan"])
    parts = [
        f"<h1>{text(Path(journal.data).name)}: a one-step generator in {format_seconds(journal.used)} "
        f"of {format_seconds(journal.whole)}</h1>",
        f'<div class="cards">{"".join(cards(found, done))}</div>',
        *(f"<p><b>Note:</b> {text(line)}</p>" for line in journal.notes),
        f'<div class="grids">{figure(folder / "real.png", "Real images")}'
        f'{figure(folder / "samples.png", "Samples of the winner, one network evaluation each, not chosen")}</div>',
        "<h2>The data</h2>", f"<p>{text(about(open_data(done['init']['data'])))}.</p>",
        "<h2>What was chosen, and why</h2>", *(f"<p>{text(line)}</p>" for line in why(found, journal, plan)),
        table(("setting", "value"), ((name, format_value(value)) for name, value in found["settings"].items())),
        "<h2>Evaluation</h2>", *evaluation(done["evaluate"]["rows"]),
        "<h2>Time</h2>", table(("", "h:mm:ss"), times(journal)),
        "<h2>How to use it</h2>",
        *(f"<p>{text(what)}:</p><pre>{text(line)}</pre>" for what, line in how_to_use(folder, found)),
    ]  # fmt: skip
    return f'<section id="summary" style="{STYLE}">{"".join(parts)}</section>\n'


def text(value: object) -> str:
    """As HTML."""
    return html.escape(str(value))


def cards(found: Found, done: dict[str, Any]) -> Iterator[str]:
    """The figures that matter."""
    for title, value in (
        (found["metric"], format_value(found["best"])),
        (f"mean ± spread of {len(found['scores'])} runs with new seeds", spread(found["scores"])),
        ("trials searched", done["search"]["trials"]),
    ):
        yield f'<div class="card"><b>{text(value)}</b><span>{text(title)}</span></div>'


def spread(scores: list[float]) -> str:
    """Mean and standard deviation."""
    if not scores:
        return "not run"
    return format_value(mean(scores)) + (f" ± {stdev(scores):.2g}" if len(scores) > 1 else "")


def why(found: Found, journal: Journal, plan: Plan) -> Iterator[str]:
    """How the winner was found."""
    done, took = journal.done, format_seconds(journal.took("repeats"))
    fit = done["fit"]
    tried, far = done["search"]["trials"], done["search"]["furthest"]
    yield (f"{tried} of {plan.trials} settings were tried, of {plan.steps:,} steps each, with most steps for the most "
           f"promising: the furthest did {far:,} ({format_seconds(journal.took('search'))}).")  # fmt: skip
    if found["scores"]:
        scores = ", ".join(map(format_value, found["scores"]))
        best = "The best was" if fit["finalists"] == 1 else f"The best {fit['finalists']} were"
        yield (f"{best} trained again with new seeds ({found['runs']} runs of {fit['steps']:,} steps, {took}), for one "
               f"run's luck decides nothing. The settings below had the best mean: {scores}.")  # fmt: skip
    best = f"the best step, {found['step']:,} of {found['total']:,}, of the best run of these settings"
    own = "the search's own" if found["of_the_search"] else "one with a new seed"
    yield (f"The model is {best} ({own}). As the best of several it is flattered by its score"
           f"{', the mean is not' if found['scores'] else ''}. Its folder: {found['winner']}")  # fmt: skip


def times(journal: Journal) -> Iterator[tuple[str, str]]:
    """What took how long."""
    training = {"search": journal.took("search"), "repeats with new seeds": journal.took("repeats")}
    rest = journal.used - sum(training.values())
    for what, seconds in {**training, "all else": rest, "in all": journal.used, "asked for": journal.whole}.items():
        yield what, format_seconds(seconds)


def evaluation(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A table, and what its numbers mean."""
    names = [name for name in rows[0]["metrics"] if name != "f_score"]
    body = ((row["nfe"], *(format_value(row["metrics"][name]) for name in names)) for row in rows)
    yield table(("network evaluations", *names), body)
    first = rows[0]
    scale = first.get("real_distance")  # not in what an earlier version found
    real = "" if scale is None else f" between real images it is {format_value(scale)};"
    yield (f"<p>{first['samples']:,} samples against {first['images']:,} real images, in {text(first['features'])} "
           f"features. fd, or fid: the Frechet distance, lower is better;{real} compare it only with others in the "
           "same features. precision: share of samples that look like real ones; recall: share of real ones that the "
           "samples cover. High precision with a recall near 0: the samples are all alike.</p>")  # fmt: skip


def how_to_use(folder: Path, found: Found) -> Iterator[tuple[str, str]]:
    """Commands."""
    yield "draw samples", typed("sample", folder / "model", "-n", 64, "-o", "samples.png")
    yield "without act_ray", (f'diffusers.ConsistencyModelPipeline.from_pretrained("{folder / "model"}")'
                              "(batch_size=4).images")  # fmt: skip
    yield "edit with it", typed("edit", "inpaint", found["winner"], "photo.png", "--pattern", "center", "-o", "out.png")


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """As HTML."""
    heads = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    inside = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" style="max-width: 640px">{inside}</div>'


def figure(path: Path, caption: str) -> str:
    """A picture within the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{text(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"
