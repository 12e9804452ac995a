"""The schedulers that may stop a trial for its score, by name.

A new one is an entry here, and a function that builds it in ray_schedulers.py. Collapse is not theirs: it is found in
the training loop, whatever the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from act_ray.tune.ray_schedulers import CollapseAware


@dataclass(frozen=True)
class Budget:
    """What a scheduler is told: the images of the longest trial, the share before a stop, one in how many is kept."""

    images: int
    grace: float
    reduction: float

    @property
    def first(self) -> int:
        """Images of the first comparison."""
        return max(1, int(self.grace * self.images))

    def rungs(self) -> list[float]:
        """The images at which trials are compared."""
        found, at = [], float(self.first)
        while at <= self.images:
            found.append(at)
            at *= self.reduction
        return found


@dataclass(frozen=True)
class Kind:
    """A scheduler's name in sentences, and how it is built; `build` imports Ray."""

    label: str
    build: Callable[[Budget], CollapseAware]


def _asha(budget: Budget) -> CollapseAware:
    from act_ray.tune.ray_schedulers import asha

    return asha(budget)


def _none(budget: Budget) -> CollapseAware:
    from act_ray.tune.ray_schedulers import never_stop

    return never_stop()


SCHEDULERS = {"asha": Kind("ASHA", _asha), "none": Kind("no scheduler", _none)}
