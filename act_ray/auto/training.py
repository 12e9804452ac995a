"""The search, and its best settings again with new seeds: what trains, and keeps to the clock."""

from pathlib import Path
from typing import Any

from act_ray.auto.journal import Found, Journal
from act_ray.auto.plan import STARTUP, Plan, fit_repeats, measured_pace, measured_startup, search_budget
from act_ray.errors import Interrupted, UserError
from act_ray.metrics.scores import metric_name
from act_ray.runs.interrupt import was_interrupted
from act_ray.runs.rows import read_rows
from act_ray.tune.experiment import Experiment
from act_ray.tune.finalists import grouped, mean_score, without_seed
from act_ray.tune.results import rank
from act_ray.tune.space import Space
from act_ray.tune.summary import conclude
from act_ray.tune.trials import TrialRecord

SEARCH = "search"  # the folder's name
FAR = 0.5  # of its steps that one trial should have done before the best settings are trained again
TOGETHER = 5.0  # steps are written down about so often, in seconds: a stop is seen then


def trial_settings(steps: int, every: int, step_s: float) -> dict[str, Any]:
    """What the plan decides of a trial, by dotted name."""
    from act_ray.init.choose import ema_decay, schedule

    together = max(1, min(every, 50, int(TOGETHER / step_s)))
    return {
        "train.total_steps": steps, "eval.every": every, "checkpoint.every": every, "train.log_every": together,
        "train.ema_decay": ema_decay(steps), **{choice.name: choice.value for choice in schedule(steps)},
    }  # fmt: skip


def read_search_space(path: Path, plan: Plan, step_s: float) -> Space:
    """init's search space, with the plan's trials and their steps."""
    from act_ray.tune.__main__ import read_space

    over = {"trials": plan.trials, "search": "random", "scheduler": "freeze-thaw", "budget": None}
    return read_space(str(path), over, trial_settings(plan.steps, plan.every, step_s), 0)


def open_search(folder: Path, space: Space, budget: str, at_once: int) -> Experiment:
    """The search's folder: a new one, or the one that an interrupted call left."""
    from act_ray.tune.__main__ import DEFAULTS

    location, options = str(folder / SEARCH), {"budget": budget, "concurrent": at_once}
    if (folder / SEARCH / "experiment.yaml").exists():
        return Experiment.resume(location, options)
    return Experiment.create(location, space, {**DEFAULTS, **options})


def train_all(folder: Path, space: Space, plan: Plan, journal: Journal) -> None:
    """The steps `search` and `repeats`, on one Ray."""
    if "search" in journal.done and "repeats" in journal.done:
        return
    from act_ray.ray_cluster import connected

    print("starting Ray", flush=True)
    with connected():
        journal.step("search", lambda: search(folder, space, plan, journal))
        journal.step("repeats", lambda: repeat(folder, plan, journal))


def search(folder: Path, space: Space, plan: Plan, journal: Journal) -> Found:
    """Search until the time for it is over."""
    seconds = journal.left - plan.repeats - plan.rest
    spent = sum(trial.last["seconds"] for trial in logged(folder / SEARCH) if trial.last)
    budget = search_budget(max(0.0, seconds), plan, spent)
    experiment = open_search(folder, space, budget, plan.at_once)
    if seconds > 0:
        run_until(experiment, seconds)
    if furthest(experiment) < FAR * plan.steps and (seconds := journal.left - plan.rest) > STARTUP:
        journal.note("The search had lost time, so it got that of the repeats as well.")
        spent = sum(trial.last["seconds"] for trial in experiment.trials.values() if trial.last)
        experiment = open_search(folder, space, search_budget(seconds, plan, spent), plan.at_once)
        run_until(experiment, seconds)
    if not experiment.trials:
        asked = f"--hours {journal.hours:g}"
        raise UserError(f"{asked}: the time was over before a trial began; give more, and another --out")
    show(experiment)
    return {"trials": len(experiment.trials), "furthest": furthest(experiment)}


def furthest(experiment: Experiment) -> int:
    """Steps of the trial that has come furthest."""
    return max((trial.last["step"] for trial in experiment.trials.values() if trial.last), default=0)


def logged(location: Path) -> list[TrialRecord]:
    """The trials of a search that may have begun."""
    there = (location / "experiment.yaml").exists()
    return list(Experiment.read(str(location)).trials.values()) if there else []


def run_until(experiment: Experiment, seconds: float) -> bool:
    """Run what is open for at most so many seconds; whether it came to its end. Raises Interrupted for a signal."""
    from act_ray.tune.__main__ import alone
    from act_ray.tune.ray_search import search

    with alone(experiment.location):
        cut_short = search(experiment, seconds)
    if was_interrupted():
        raise Interrupted("")
    return not cut_short


def show(experiment: Experiment) -> None:
    """tune's own table and files."""
    if experiment.trials:
        conclude(experiment, metric_name(experiment.space.example().eval))


# ---------------------------------------------------------------------------------------------- the best again


def repeat(folder: Path, plan: Plan, journal: Journal) -> Found:
    """Train the best settings again, as many and as long as the time allows, and choose the winner."""
    experiment = Experiment.read(str(folder / SEARCH))
    fit = journal.step("fit", lambda: fit_to_time(folder, experiment, plan, journal.left - plan.rest))
    final = None
    if fit["finalists"] and (final := open_repeats(experiment, plan, **fit)) is not None:
        seconds = journal.left - plan.rest
        if seconds <= 0 or not run_until(final, seconds):
            journal.note("The time was over before all repeats had come to their end.")
        show(final)
        if fit["steps"] < plan.steps:
            journal.note(f"For want of time the repeats had {fit['steps']:,} steps, fewer than the search's trials "
                         f"({plan.steps:,}): compare their scores only with each other.")  # fmt: skip
    else:
        journal.note("There was no time to train the best settings again: the winner is one run's luck, too.")
    runs = sum(trial.best_score is not None for trial in final.trials.values()) if final is not None else 0
    return {"runs": runs, **chosen(experiment, final)}


def fit_to_time(folder: Path, experiment: Experiment, plan: Plan, seconds: float) -> Found:
    """How many finalists, and how many steps for each of their runs; by what the search took."""
    rows, _ = read_rows(folder / SEARCH / "events.jsonl")
    scored = sum(trial.best_score is not None for trial in experiment.trials.values())
    pace, startup = measured_pace(rows) or plan.repeats / plan.steps, measured_startup(rows) or STARTUP
    count, steps = fit_repeats(seconds, startup, pace, plan, scored)
    return {"finalists": count, "steps": steps}


def open_repeats(experiment: Experiment, plan: Plan, finalists: int, steps: int) -> Experiment | None:
    """tune's search over the finalists, each run of so many steps; the same one when it is asked for again."""
    from act_ray.tune.finalists import finalists as search_over

    every = max(1, steps // (plan.steps // plan.every))
    longer = experiment.snapshot()
    for name, value in {"train.total_steps": steps, "eval.every": every, "checkpoint.every": every}.items():
        longer.space = longer.space.with_setting(name, value)
    return search_over(longer, finalists)


def chosen(experiment: Experiment, final: Experiment | None) -> dict[str, Any]:
    """The winner. Settings: those whose mean over new seeds is best. Run: the best of theirs, the search's included.

    The search's own run may have had more steps than its repeats. Without repeats it is the search's best trial. A
    repeat that the clock stopped counts only where none has come to its end.
    """
    groups = ranked(final) if final is not None else []
    runs = list[tuple[Experiment, TrialRecord]]()
    if final is not None and groups:
        values, scores = groups[0][0], [trial.best_score for trial in groups[0][1]]
        runs += [(final, trial) for trial in groups[0][1]]
        runs += [(experiment, trial) for trial in rank(experiment) if without_seed(trial.plan.values) == values]
    elif (best := experiment.best) is not None:
        values, scores = best.plan.values, list[float | None]()
        runs.append((experiment, best))
    scored = [(trial.best_score, i) for i, (_, trial) in enumerate(runs) if trial.best_score is not None]
    if not scored:
        return {"winner": None}
    where, trial = runs[min(scored)[1]]
    return {"winner": where.trial_location(trial.plan), "settings": values, "scores": scores,
            "metric": metric_name(trial.plan.config.eval), "best": trial.best_score, "step": trial.best_step,
            "total": trial.total, "of_the_search": where is experiment}  # fmt: skip


def ranked(final: Experiment) -> list[tuple[dict[str, Any], list[TrialRecord]]]:
    """The settings that have repeats with scores, the best mean first, with those that count."""
    groups = [(values, [run for run in runs if run.best_score is not None]) for values, runs in grouped(final)]
    ended = [(values, [run for run in runs if run.outcome is not None]) for values, runs in groups]
    if any(runs for _, runs in ended):
        groups = ended
    return sorted(((values, runs) for values, runs in groups if runs), key=lambda group: mean_score(group[1]))
