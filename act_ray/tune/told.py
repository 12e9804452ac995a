"""What Optuna is told of trials that ran, in this search and, with --from, in earlier ones."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from act_ray import settings
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST, finite_or_worst
from act_ray.outcomes import TrialOutcome
from act_ray.tune.experiment import Experiment, require_search
from act_ray.tune.kinds import endpoints
from act_ray.tune.schedulers import promise
from act_ray.tune.space import Space
from act_ray.tune.trials import TrialRecord

# Settings in which two trials may differ and still have the same score.
ASIDE = ("preset", "recipe", "collapse.", "checkpoint.", "train.threads", "train.log_every", "eval.grid", "eval.batch")


def known(trial: TrialRecord) -> float | None:
    """The score that a trial counts with: the worst for what collapsed, what its trend promises for what waits."""
    if trial.outcome is TrialOutcome.FAILED or not trial.last:
        return None
    if trial.outcome is TrialOutcome.PRUNED or trial.audited or trial.rescues:
        return WORST
    if trial.waiting is not None:
        return promised(trial.points)
    return None if trial.outcome is None else finite_or_worst(trial.last["score"])


def promised(points: Sequence[tuple[float, float]]) -> float:
    """The score that a trend promises."""
    return finite_or_worst(math.exp(min(promise(points), math.log(WORST))))


def compute(report: Mapping[str, Any], total: int) -> float:
    """Seconds of training that a trial of `total` steps takes to its end, at the speed it had."""
    return float(report["seconds"] * total / max(report["step"], 1))


def earlier(space: Space, locations: Sequence[str]) -> Iterator[tuple[dict[str, Any], TrialRecord]]:
    """The trials of earlier searches that this one could have drawn, with the values that it would have drawn.

    They may have searched other parameters: what counts are their settings. Raises UserError where there is none.
    """
    why = "none of its trials has a score"
    count = 0
    for location in locations:
        require_search(location, "--from")
        for trial in Experiment.read(location, scratch="views").trials.values():
            if known(trial) is None:
                continue
            found = {name: settings.get(trial.plan.config, name) for name in space.specs}
            values = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
            problem = space.refusal(values) or outside(space, values) or unlike(space, values, trial)
            if problem is None:
                count += 1
                yield values, trial
            else:
                why = f"trial {trial.plan.name} is not one of this space: {problem}"
    if locations and not count:
        raise UserError(f"--from {', '.join(locations)}: nothing to learn from; {why}")


def outside(space: Space, values: Mapping[str, Any]) -> str | None:
    """The first value that the space does not draw."""
    for name, (kind, ends) in space.specs.items():
        value, bounds = values[name], endpoints(kind, ends)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = value in ends if kind == "choice" else number and bounds[0] <= value <= bounds[-1]
        if not inside:
            return f"{name} = {value}"
    return None


def unlike(space: Space, values: Mapping[str, Any], trial: TrialRecord) -> str | None:
    """The first setting besides the searched ones that a trial of this space would have another value of."""
    ours, theirs = space.config(values), trial.plan.config
    if (ours.collapse.action == "steer") != (theirs.collapse.action == "steer"):
        return f"collapse.action = {theirs.collapse.action}, not {ours.collapse.action}"
    for name in settings.field_names():
        if name.startswith(ASIDE) or name in space.specs or name == "train.seed":
            continue
        if settings.get(ours, name) != settings.get(theirs, name):
            return f"{name} = {settings.get(theirs, name)}, not {settings.get(ours, name)}"
    return None
