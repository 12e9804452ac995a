"""`python -m act_ray.list`: what there is to start from, and what was run."""

import itertools
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from act_ray import settings
from act_ray.cli import run
from act_ray.errors import UserError

DEFAULT = "runs"


@click.command("list")
@click.option("--storage", type=click.Path(path_type=Path), default=DEFAULT, show_default=True, help="Folder of runs.")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
def command(storage: Path, folder: Path | None) -> None:
    """List the presets, the recipes, the search spaces, and the runs and searches in FOLDER, or in --storage."""
    from act_ray.tune.space_files import shipped_spaces, space_text

    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if storage != Path(DEFAULT) and not storage.is_dir():
        raise UserError(f"--storage {storage}: no such folder")
    storage = folder or storage
    show("Presets (act-ray train --preset NAME)", ((name, about_preset(name)) for name in settings.preset_names()))
    recipes = ((name, comment(settings.recipe_text(name))) for name in settings.recipe_names())
    show("Recipes (act-ray train --recipe NAME)", recipes)
    show(
        "Search spaces (act-ray tune --space NAME)", ((name, comment(space_text(name)[0])) for name in shipped_spaces())
    )
    found = [*runs(storage)]
    show(f"Runs and searches in {storage}", found or [("none yet", "")])


def show(title: str, rows: Any) -> None:
    """A title, and a line for each name and what it is."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    click.echo(f"{title}:")
    for name, about in rows:
        room = max(30, shutil.get_terminal_size().columns - width - 4)
        for i, line in enumerate(textwrap.wrap(about, room) or [""]):
            click.echo(f"  {name if i == 0 else '':{width}}  {line}".rstrip())
    click.echo()


def about_preset(name: str) -> str:
    """The first line of a preset's file says what it is."""
    return comment(settings.preset_text(name))


def comment(text: str) -> str:
    """The first sentence of the comment at the head of a YAML file."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in lines)
    return re.split(r"(?<!Fig)\. (?=[A-Z])", text)[0].rstrip(".")


def runs(storage: Path) -> Iterator[tuple[str, str]]:
    """Name and state of each run and search, the newest last."""
    from act_ray.runs.rows import read_rows

    folders = [path for path in storage.iterdir() if path.is_dir()] if storage.is_dir() else []
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime):
        if (folder / "experiment.yaml").exists():
            rows, bad = read_rows(folder / "events.jsonl")
            states = [row.get("state") for row in rows if row["event"] == "search"] or ["of an earlier version"]
            trials = len([*(folder / "trials").glob("*")])
            ended = len({row.get("trial") for row in rows if row["event"] == "ended"})
            reports = [row.get("report") for row in rows if row["event"] == "reported"]
            found = [report.get("best_score") for report in reports if isinstance(report, dict)]
            scores = [score for score in found if isinstance(score, int | float)]
            best = f", best score {min(scores):.4g}" if scores else ""
            best += f"; {bad} line(s) of its log cannot be read" if bad else ""
            yield folder.name, f"search, {states[-1]}: {trials} trial(s) begun, {ended} came to an end{best}"
        elif (folder / "config.yaml").exists():
            yield folder.name, f"run, {state(folder)}"


def state(folder: Path) -> str:
    """How far a run is, how it ended, and its best score."""
    from act_ray.runs.folder import Folder
    from act_ray.runs.progress import has_news, read_progress
    from act_ray.runs.reports import as_report

    result = as_report(Folder(str(folder)).read("result.json"))
    if result is None:
        progress = read_progress(folder)
        if progress is None:
            return "no step yet"
        return f"{'' if has_news(folder) else 'unfinished, '}at step {progress.step:,} of {progress.total_steps:,}"
    flag = result["prune"]["signature"] if result.get("prune") else None
    why = "" if flag is None else f"; flagged once: {flag}" if result["outcome"] == "completed" else f" ({flag})"
    best = "" if result.get("best_step") is None else f", best score {result['best_score']:.4g}"
    return f"{result['outcome']} at step {result['step']:,}{why}{best}"


if __name__ == "__main__":
    run(command)
