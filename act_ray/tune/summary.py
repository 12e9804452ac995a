"""What a search ends with: the ranked table, the compute saved, the best trial, and files for other tools."""

import math
from pathlib import Path

from rich.console import Console

from act_ray.outcomes import TrialOutcome
from act_ray.runs.checkpoint import step_folder
from act_ray.runs.progress import format_seconds
from act_ray.runs.storage import join
from act_ray.tune.experiment import Experiment
from act_ray.tune.finalists import finalists_table
from act_ray.tune.lessons import describe_lessons
from act_ray.tune.picture import draw_best
from act_ray.tune.progress_line import width
from act_ray.tune.rerun import goes_past_its_collapse, rerun_command
from act_ray.tune.results import format_value, rank, write_results
from act_ray.tune.schedulers import SCHEDULERS
from act_ray.tune.simulation import NEAR, wilson
from act_ray.tune.spent import saved_compute
from act_ray.tune.table import make_table
from act_ray.tune.told import compute
from act_ray.tune.trials import TrialRecord
from act_ray.typed import typed

FILE_WIDTH = 120  # of table.txt


def conclude(experiment: Experiment, metric: str) -> None:
    """Print the table, the compute saved and the best trial; write table.txt, table.csv, results.parquet, best.png."""
    lines = [count_outcomes(experiment), say_saved(experiment), *say_audits(experiment)]
    lines += [*say_rescues(experiment), *say_front(experiment), *describe_best(experiment)]
    picture = draw_best(experiment)
    if picture is not None:
        lines.append(f"its samples beside real images: {picture}")
    if not experiment.space.file.points:
        lines += describe_lessons(experiment)
    lines.append(f"everything: {experiment.location}")
    write_results(experiment)
    with (experiment.dir.path / "table.txt").open("w") as file:
        for console in (Console(width=width()), Console(width=FILE_WIDTH, file=file)):
            for part in make_table(experiment, metric, console):
                console.print(part, markup=False, highlight=False)
            console.print()
            for part in finalists_table(experiment) if experiment.options.get("final") and experiment.trials else ():
                console.print(part, markup=False, highlight=False)
            for line in lines:  # may be copied: never broken
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    experiment.dir.push_root()


def count_outcomes(experiment: Experiment) -> str:
    """How many trials ended in which way."""
    outcomes = [trial.outcome or trial.waits_as for trial in experiment.trials.values()]
    labels = {
        TrialOutcome.COMPLETED: "ran to their end",
        TrialOutcome.PRUNED: "stopped, as their collapse was confirmed",
        TrialOutcome.SCHEDULER: f"stopped by {SCHEDULERS[experiment.space.file.scheduler].label}",
        "waiting": "wait",
        "postponed": "wait with a signature of collapse",
        "confirmed": "wait with a confirmed collapse",
        TrialOutcome.FAILED: "failed",
        None: "not ended",
    }
    parts = [f"{outcomes.count(outcome)} {label}" for outcome, label in labels.items() if outcome in outcomes]
    return f"{len(outcomes)} trials: {', '.join(parts)}"


def say_saved(experiment: Experiment) -> str:
    """Compute not spent: steps planned minus steps run of what collapsed, was stopped or waits; at its own speed.

    In a search that was interrupted a trial that waits may still get all of its steps.
    """
    trials = [
        trial for trial in experiment.trials.values() if experiment.state != "interrupted" or trial.waiting is None
    ]
    saved = saved_compute(trials, experiment.space.file.scheduler)
    workers = max(1, experiment.options["workers_per_trial"])
    parts = [f"{one.steps:,} by {one.who} (about {one.seconds * workers / 60:.1f} worker-minutes)" for one in saved]
    planned, spared = sum(trial.total for trial in experiment.trials.values()), sum(one.steps for one in saved)
    what = "; ".join(parts) if parts else "no trial was stopped early"
    return f"compute saved: {spared:,} of {planned:,} planned steps ({spared / max(planned, 1):.0%}): {what}"


def say_audits(experiment: Experiment) -> list[str]:
    """How many of the confirmed collapses were wrong, as far as trials that went on all the same can tell."""
    audited = [trial for trial in experiment.trials.values() if trial.audited]
    best = experiment.best
    if not audited or best is None or best.best_score is None:
        return []
    wrong = [t.plan.name for t in audited if t.best_score is not None and t.best_score <= NEAR * best.best_score
             and (t.best_step or 0) > (t.flag or {})["confirmed"]]  # fmt: skip
    low, high = wilson(len(wrong), len(audited))
    steps = sum(trial.total - (trial.flag or {})["confirmed"] for trial in audited)
    names = f" ({', '.join(wrong)})" if wrong else ""
    return [
        f"audits: {len(audited)} trials went on after their collapse was confirmed, for {steps:,} steps; {len(wrong)} "
        f"had a better score then, within {NEAR:g} times the best{names}: {low:.0%} to {high:.0%} of such stops are "
        "wrong"
    ]


def say_rescues(experiment: Experiment) -> list[str]:
    """What going back with something changed has done for the trials that collapsed."""
    rescued, best = [trial for trial in experiment.trials.values() if trial.rescues], experiment.best
    if not rescued or best is None or best.best_score is None:
        return []
    good = sum(t.best_score is not None and t.best_score <= NEAR * best.best_score for t in rescued)
    return [f"rescues: {len(rescued)} trials went back after a collapse, with something changed (rescues.json in their "
            f"folders); {good} came within {NEAR:g} times the best"]  # fmt: skip


def say_front(experiment: Experiment) -> list[str]:
    """With two objectives: the trials that no other one beats in both, the best score first."""
    if len(experiment.space.file.objectives) < 2:
        return []
    lines, fastest = [], math.inf
    for trial in rank(experiment):
        if trial.best_score is None or trial.last is None or trial.rescues:
            continue
        seconds = compute(trial.last, trial.total)
        if seconds < fastest:
            fastest = seconds
            score = format_value(trial.best_score)
            lines.append(f"  {trial.plan.name}: score {score}, {format_seconds(seconds)} of training")
    return ["no other trial is both better and faster than one of these:", *lines]


# ---------------------------------------------------------------------------------------------- the best trial


def describe_best(experiment: Experiment) -> list[str]:
    """The best trial: its score and when it was taken, how it ended, its checkpoint, and how to go on with it."""
    best = experiment.best
    if best is None or best.best_step is None:
        return ["best: no trial has a score yet"]
    location = experiment.trial_location(best.plan)
    checkpoint = join(location, "checkpoints", step_folder(Path(), best.best_step).name)
    past = goes_past_its_collapse(best)
    note = " (collapse.action=record lets it go on past its collapse)" if past else ""
    return [
        f"best: {best.plan.name}, score {format_value(best.best_score)} at step {best.best_step:,} of {best.total:,}; "
        + describe_end(experiment, best),
        f"its checkpoint: {checkpoint}",
        f"sample from it: {typed('sample', location)}",
        f"run it again: {rerun_command(experiment, best)}{note}",
    ]


def describe_end(experiment: Experiment, trial: TrialRecord) -> str:
    """What became of the trial after its best score."""
    match trial.outcome:
        case TrialOutcome.COMPLETED if trial.prune is not None:
            return f"it ran to its end, and showed {trial.prune['signature']} at step {trial.prune['step']:,}"
        case TrialOutcome.COMPLETED:
            return "it ran to its end"
        case TrialOutcome.PRUNED if trial.prune is not None:
            return f"it was stopped for {trial.prune['signature']} at step {trial.prune['step']:,}"
        case TrialOutcome.SCHEDULER:
            return f"it was stopped by {SCHEDULERS[experiment.space.file.scheduler].label} at step {trial.step:,}"
        case TrialOutcome.FAILED:
            return f"it failed after step {trial.step:,}"
    if trial.waiting is not None:
        return f"it {trial.waiting}, step {trial.step:,}; --budget lets more go on"
    return f"it has not ended, and is at step {trial.step:,}"
