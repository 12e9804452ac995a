"""A trial of a search: what it is to run, and what is known of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from act_ray.config import Config
from act_ray.metrics.scores import finite_or_worst
from act_ray.outcomes import Report, TrialOutcome
from act_ray.tune.space import Space


@dataclass(frozen=True)
class TrialPlan:
    """A trial before it runs."""

    index: int
    values: dict[str, Any]  # of the searched parameters, by dotted name
    config: Config
    name: str  # of its folder
    audit: bool = False  # it goes on after its collapse is confirmed, and the searcher is not told


@dataclass
class TrialRecord:
    """What a trial reported, and how it ended."""

    plan: TrialPlan
    reports: list[Report] = field(default_factory=list)
    outcome: TrialOutcome | None = None  # None: it has not ended
    waiting: str | None = None  # why, where it gave way to others and may go on later
    favoured: bool = False  # somebody asked that it goes on, before all others and to its end
    reason: str | None = None  # of what the scheduler stopped, or of a failure; in one line
    prune: dict[str, Any] | None = None  # the signature of collapse that it showed, where it did

    @property
    def last(self) -> Report | None:
        """The last report."""
        return self.reports[-1] if self.reports else None

    @property
    def step(self) -> int:
        """Steps done, as of the last report."""
        return self.reports[-1]["step"] if self.reports else 0

    @property
    def total(self) -> int:
        """Steps planned."""
        return self.plan.config.train.total_steps

    @property
    def points(self) -> list[tuple[float, float]]:
        """(share of its steps, score) of its reports; the worst where there is no score."""
        return [(report["step"] / self.total, finite_or_worst(report["score"])) for report in self.reports]

    @property
    def flag(self) -> dict[str, Any] | None:
        """The signature of collapse that it has shown, confirmed or not."""
        return self.prune or (self.reports[-1]["prune"] if self.reports else None)

    @property
    def refuted(self) -> bool:
        """Whether its collapse was confirmed, and its best score came after that all the same."""
        confirmed = (self.flag or {}).get("confirmed")
        return confirmed is not None and self.best_step is not None and self.best_step > confirmed and not self.rescues

    @property
    def given_up(self) -> bool:
        """Whether its collapse was confirmed, and it was to be heeded."""
        confirmed = self.flag is not None and self.flag.get("confirmed") is not None
        return confirmed and self.plan.config.collapse.ends

    @property
    def waits_as(self) -> str | None:
        """waiting, postponed (it has shown a signature) or confirmed, where it waits; None where not."""
        if self.waiting is None:
            return None
        return "confirmed" if self.given_up else "postponed" if self.flag else "waiting"

    @property
    def audited(self) -> bool:
        """Whether it went on after its collapse was confirmed, for an audit."""
        return self.given_up and self.plan.audit and self.outcome is TrialOutcome.COMPLETED

    @property
    def rescues(self) -> int:
        """How often it went back after a collapse, with something changed: it is no longer its settings' own run."""
        return self.reports[-1].get("rescues", 0) if self.reports else 0

    @property
    def best_score(self) -> float | None:
        """The score of the best evaluation, whose checkpoint is kept; None without one."""
        return self.reports[-1]["best_score"] if self.reports else None

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation; None without one."""
        return self.reports[-1]["best_step"] if self.reports else None


def plan_trial(space: Space, index: int, values: Mapping[str, Any]) -> TrialPlan:
    """A trial's config: the values, and a seed of its own that follows from the base seed and its index."""
    own_seed = {} if "train.seed" in space.file.parameters else {"train.seed": space.seed + 1000 * index}
    cfg = space.config({**values, **own_seed})
    digest = hashlib.sha256(json.dumps(cfg.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    audit = cfg.collapse.action == "stop" and space.audits(index)
    return TrialPlan(index, dict(values), cfg, f"{index:03d}-{digest[:8]}", audit)
