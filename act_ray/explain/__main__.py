"""`python -m act_ray.explain RUN`: why a run was flagged, or stopped, and what would have had to differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from act_ray.cli import PATH, run


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
    from act_ray.typed import typed

    experiment = Experiment.read(location, scratch="views")
    if experiment.bad:
        yield f"events.jsonl: {experiment.bad} line(s) cannot be read, and are left out"
    still = "runs" if experiment.state == "running" else "has not ended, and does not run"
    for index, trial in sorted(experiment.trials.items()):
        reasons = [trial.waiting, long_reason(trial) if trial.flag or not trial.waiting else None]
        why = "; ".join(reason for reason in reasons if reason) or str(trial.outcome or still)
        best = "no score yet" if trial.best_score is None else f"best score {trial.best_score:.4g}"
        yield f"{index:03d}: {why} ({best}, step {trial.step:,} of {trial.total:,})"
    more = sorted((t for t in experiment.trials.values() if t.flag or t.waiting), key=lambda t: not t.flag)
    if more:
        yield f"more: {typed('explain', experiment.trial_location(more[0].plan))}"


def explain_run(location: str, out: Path | None, explained: bool = False) -> int:
    """Print and draw it; `explained`: something has been told already."""
    from act_ray.collapse.record import PruneRecord, replay
    from act_ray.errors import UserError
    from act_ray.explain.words import describe, describe_rescues, describe_since
    from act_ray.figures.curves import Mark, draw_curves, read_history
    from act_ray.figures.style import save, styled
    from act_ray.runs.folder import RunFolder
    from act_ray.train.detect import feed, make_detector
    from act_ray.train.rescue import changed, read_rescues

    folder = RunFolder(location, scratch="views")
    history = read_history(location)
    rescues = read_rescues(folder)
    for line in (*history.left_out, *describe_rescues(rescues)):
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
    best = min(zip(*reversed(history.points("score")), strict=True), default=(None, None))
    ended = None
    if folder.read("result.json") is not None:
        ended = "" if best[0] is None else f"; its best score, {best[0]:.4g}, came at step {int(best[1] or 0):,}"
        ended += "; the run has ended"
    later = None if rescues else describe_since(record, *best)
    for line in [*filter(None, [later]), *describe(record, ended)]:
        click.echo(line)
    click.echo(how)
    marked = replace(history, marks=[Mark.of(record.to_dict())])
    if out is not None and (out.suffix != ".png" or not out.parent.is_dir()):
        raise UserError(f"--out {out}: give a file that ends in .png, in a folder that is there")
    target = out or (folder.path if folder.remote is None else Path.cwd()) / "explain.png"
    with styled():
        save(draw_curves([marked], [history.name]), target.parent, target.stem)
    click.echo(f"plot: {target}")
    return 0


if __name__ == "__main__":
    run(command)
