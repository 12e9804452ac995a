"""Compute that a search did not spend."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from act_ray.outcomes import TrialOutcome
from act_ray.tune.schedulers import SCHEDULERS
from act_ray.tune.trials import TrialRecord


@dataclass(frozen=True)
class Saved:
    """By whom, and how much: steps, and seconds of training at the speed that each trial had."""

    who: str
    steps: int
    seconds: float


def saved_compute(trials: Iterable[TrialRecord], scheduler: str) -> list[Saved]:
    """Steps planned minus steps run, those given up by rescues among them, of what collapsed, was stopped or waits."""
    steps, seconds = Counter[str](), Counter[str]()
    for trial in trials:
        who = None
        if trial.outcome is TrialOutcome.PRUNED:
            who = "collapse pruning"
        elif trial.outcome is TrialOutcome.SCHEDULER or trial.waiting is not None:
            who = SCHEDULERS[scheduler].label
        if who is not None and trial.last is not None:
            run = trial.step + trial.last.get("given_up", 0)
            steps[who] += max(0, trial.total - run)
            seconds[who] += max(0, trial.total - run) * trial.last["seconds"] / max(run, 1)
    return [Saved(who, count, seconds[who]) for who, count in steps.items()]
