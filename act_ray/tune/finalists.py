"""`tune --finalists K`: the K best trials again with three new seeds each, for one run's luck decides nothing."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rich import box
from rich.table import Table

from act_ray.runs.folder import Folder
from act_ray.runs.storage import join
from act_ray.tune.experiment import Experiment
from act_ray.tune.results import format_value, rank
from act_ray.tune.trials import TrialRecord

SEEDS = 3
SEED = "train.seed"


def finalists(experiment: Experiment, count: int) -> Experiment | None:
    """The search over the `count` best trials' settings with new seeds, in `finalists` of the search's folder.

    The same one as long as the best are the same, else another one beside it. None where no trial has a score.
    """
    best = list[dict[str, Any]]()
    for trial in rank(experiment):
        values = without_seed(trial.plan.values)
        if trial.best_score is not None and not trial.rescues and values not in best:
            best.append(values)
    if not best:
        return None
    used = {plan.config.train.seed for plan in experiment.plans.values()}
    seeds = list(itertools.islice((n for n in itertools.count(experiment.space.seed + 1) if n not in used), SEEDS))
    points = [{**values, SEED: seed} for values in best[:count] for seed in seeds]
    options = {**experiment.options, "budget": None, "finalists": None, "final": True}
    for number in itertools.count(1):
        location = join(experiment.location, "finalists" if number == 1 else f"finalists-{number}")
        if Folder(location).read("experiment.yaml") is None:
            break
        known = Experiment.read(location, options)
        if known.space.file.points == points:
            return known
    file = experiment.space.file
    names = [name for name in file.parameters if name != SEED]
    choices = {name: {"choice": _distinct(point[name] for point in points)} for name in (*names, SEED)}
    space = replace(
        experiment.space,
        file=file.model_copy(
            update={
                "set": {name: value for name, value in file.set.items() if name != SEED}, "points": points,
                "parameters": choices, "search": "random", "scheduler": "none", "budget": None, "trials": None,
                "audit_fraction": 0.0, "about": "the best trials, with new seeds",
            }
        ),
    )  # fmt: skip
    return Experiment.create(location, space, options)


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, also of those that are lists."""
    found = list[Any]()
    for value in values:
        if value not in found:
            found.append(value)
    return found


def without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings but for its seed."""
    return {name: value for name, value in values.items() if name != SEED}


def grouped(final: Experiment) -> list[tuple[dict[str, Any], list[TrialRecord]]]:
    """The trials of the same settings, the best mean first; those without a score last."""
    groups: list[tuple[dict[str, Any], list[TrialRecord]]] = []
    for trial in final.trials.values():
        values = without_seed(trial.plan.values)
        for known, members in groups:
            if known == values:
                members.append(trial)
                break
        else:
            groups.append((values, [trial]))
    return sorted(groups, key=lambda group: mean_score(group[1]))


def mean_score(trials: list[TrialRecord]) -> float:
    """Of their best scores; inf where one has none."""
    scores = [trial.best_score for trial in trials]
    return statistics.mean(score for score in scores if score is not None) if None not in scores else float("inf")


def finalists_table(final: Experiment) -> Iterator[Table | str]:
    """Mean and spread of each finalist, and the winner."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for head in ("settings", "mean", "spread", *(f"seed {i + 1}" for i in range(SEEDS))):
        out.add_column(head, no_wrap=head != "settings", overflow="fold")
    groups = grouped(final)
    varying = [name for name in groups[0][0] if len({str(values[name]) for values, _ in groups}) > 1]
    for values, members in groups:
        scores = [trial.best_score for trial in sorted(members, key=lambda t: int(t.plan.values[SEED]))]
        known = [score for score in scores if score is not None]
        spread = statistics.stdev(known) if len(known) > 1 else None
        text = " ".join(f"{name}={_short(values[name])}" for name in varying) or "the same"
        out.add_row(text, format_value(statistics.mean(known) if known else None), format_value(spread),
                    *map(format_value, scores))  # fmt: skip
    yield f"Finalists: their best scores with {SEEDS} new seeds each, the best mean first."
    yield out


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else format_value(value)
