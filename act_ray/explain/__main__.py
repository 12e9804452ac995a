"""`python -m act_ray.explain RUN`: why a run was flagged, or stopped, and what would have had to differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from act_ray.cli import PATH, run

if TYPE_CHECKING:
    from act_ray.collapse.record import PruneRecord
    from act_ray.train.rescue import Rescue


@click.command("explain")
@click.argument("location", metavar="RUN")
@click.option("-o", "--out", type=PATH, metavar="FILE", help="The plot.  [RUN/explain.png]")
def command(location: str, out: Path | None) -> int:
    """Explain what the collapse detector found in a run, or in a search's trial, from its folder or URI.

    Replays the recorded observations to the same decision. Prints it as a sentence with its values and thresholds, what
    came of the scores since, and which thresholds would have had to differ, and draws the curves with the steps that
    the rule looked at. For a search: why each trial waits, was stopped, or goes on; for a trial that waits: where it
    stands among the others, and what it would have needed.

    Exit code 0: there is something to explain; 1: the run shows no signature of collapse; 2: a mistake in the input.
    """
    from act_ray.runs.folder import RunFolder

    location = str(Path(location).resolve()) if "://" not in location else location.rstrip("/")
    if RunFolder(location, scratch="views").read("experiment.yaml") is not None:
        for line in explain_search(location):
            click.echo(line)
        return 0
    standing = [*explain_standing(location)]
    for line in standing:
        click.echo(line)
    return explain_run(location, out, explained=bool(standing))


def explain_standing(location: str) -> Iterator[str]:
    """Why a search lets the trial at this location wait; nothing of a run of its own, or of one that does not wait."""
    from act_ray.runs.folder import Folder
    from act_ray.tune.experiment import Experiment
    from act_ray.tune.standing import describe_standing

    trials, _, name = location.rpartition("/")
    search, _, folder = trials.rpartition("/")
    if folder != "trials" or Folder(search, "views").read("experiment.yaml") is None:
        return
    experiment = Experiment.read(search, scratch="views")
    for index, trial in experiment.trials.items():
        if trial.plan.name == name and trial.waiting is not None:
            yield f"{trial.waiting}, in {search}"
            yield from describe_standing(experiment, index)


def explain_search(location: str) -> Iterator[str]:
    """A line for each trial, and how to ask for more."""
    from act_ray.tune.experiment import Experiment
    from act_ray.tune.table import long_reason

    experiment = Experiment.read(location, scratch="views")
    for index, trial in sorted(experiment.trials.items()):
        reasons = [trial.waiting, long_reason(trial) if trial.flag or not trial.waiting else None]
        why = "; ".join(reason for reason in reasons if reason) or str(trial.outcome or "runs")
        best = "no score yet" if trial.best_score is None else f"best score {trial.best_score:.4g}"
        yield f"{index:03d}: {why} ({best}, step {trial.step:,} of {trial.total:,})"
    more = sorted((t for t in experiment.trials.values() if t.flag or t.waiting), key=lambda t: not t.flag)
    if more:
        yield f"more: python -m act_ray.explain {experiment.trial_location(more[0].plan)}"


def explain_run(location: str, out: Path | None, explained: bool = False) -> int:
    """Print and draw it; `explained`: something has been told already."""
    from act_ray.collapse.record import PruneRecord, replay
    from act_ray.errors import UserError
    from act_ray.figures.curves import Mark, draw_curves, read_history
    from act_ray.figures.style import save, styled
    from act_ray.runs.folder import RunFolder
    from act_ray.train.detect import feed, make_detector
    from act_ray.train.rescue import changed, read_rescues

    folder = RunFolder(location, scratch="views")
    history = read_history(location)
    rescues = read_rescues(folder)
    for line in describe_rescues(rescues):
        click.echo(line)
    text = folder.read("prune.json")
    if text is not None:
        try:
            record = PruneRecord.from_json(text)
            again = replace(replay(record), evidence=record.evidence)
        except ValueError as error:
            raise UserError(f"{location}/prune.json: {error}") from None
        if record.detector_version != again.detector_version:
            how = f"found by version {record.detector_version} of the rules, and by today's, {again.detector_version}"
        else:
            same = again.to_dict() == record.to_dict()
            how = "replayed from prune.json to the same decision" if same else "prune.json replays to ANOTHER decision"
    else:
        detector = make_detector(changed(history.cfg, rescues))
        first = rescues[-1].back_to if rescues else 0  # what was changed is watched from there on
        for _ in feed(
            detector,
            [row for row in history.metrics if row["step"] >= first],
            [row for row in history.scores if row["step"] > first],
        ):
            pass
        if detector.record is None:
            since = f" since step {rescues[-1].back_to:,}" if rescues else f" in {len(history.metrics):,} steps"
            click.echo(f"{location}: no signature of collapse{since}")
            return 0 if rescues or explained else 1
        record, how = detector.record, "found in its rows; there is no prune.json yet"
    for line in describe(record):
        click.echo(line)
    click.echo(how)
    first, last = record.window[0][0], record.window[-1][0]
    marked = replace(history, marks=[Mark(record.signature, record.step, (first, last), record.message)])
    if out is not None and (out.suffix != ".png" or not out.parent.is_dir()):
        raise UserError(f"--out {out}: give a file that ends in .png, in a folder that is there")
    target = out or (folder.path if folder.remote is None else Path.cwd()) / "explain.png"
    with styled():
        save(draw_curves([marked], [history.name]), target.parent, target.stem)
    click.echo(f"plot: {target}")
    return 0


def describe_rescues(rescues: list[Rescue]) -> Iterator[str]:
    """What a run went back for, and what was changed."""
    for count, rescue in enumerate(rescues, 1):
        changes = ", ".join(f"{name} = {value}" for name, value in rescue.changes.items())
        yield (
            f"rescue {count}: {rescue.signature}, confirmed at step {rescue.confirmed:,}; it went back to step "
            f"{rescue.back_to:,}, with {changes}"
        )


def describe(record: PruneRecord) -> Iterator[str]:
    """The decision in sentences."""
    from act_ray.collapse.margins import margins
    from act_ray.collapse.trace import Trace

    share = record.step / record.planned_steps
    yield f"{record.signature} at step {record.step:,} of {record.planned_steps:,} ({share:.0%}): {record.message}"
    scores = [(e.step, e.score) for e in Trace.from_dict(record.trace).evals if e.score is not None]
    if record.confirmed is None:
        yield "flagged only: its scores have not confirmed it so far"
    else:
        yield f"confirmed at step {record.confirmed:,}: {record.because}"
    if scores:
        best = min(scores, key=lambda pair: pair[1])
        shown = ", ".join(f"{score:.4g} at {step:,}" for step, score in scores if step >= best[0])
        yield f"scores from the best on: {shown}"
    needed = list(margins(record))
    if needed:
        yield "it would not have been so with any one of these:"
        for margin in needed:
            word = "over" if margin.needed > margin.value else "under"
            yield f"  collapse.{margin.name} {word} {margin.needed:.3g} (it is {margin.value:g})"
        if record.confirmed is not None and scores and "score" in (record.because or ""):
            yield f"  a score under {min(score for _, score in scores):.4g} after step {best[0]:,}"
    else:
        yield "no threshold alone would have changed it"


if __name__ == "__main__":
    run(command)
