"""Which trials of a search run, wait, or stop for their score: the interface, the plainest scheduler, all by name.

A scheduler knows trials by their index, and nothing of Ray. Ray Tune drives it (ray_schedulers.py: TuneScheduler), and
the simulator (simulation.py) drives the same classes over recorded runs. Shares are of a trial's own planned steps.
A new scheduler is a class and an entry in SCHEDULERS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

from act_ray.metrics.scores import WORST, finite_or_worst

State = Literal["new", "running", "waiting", "over"]
Report = tuple[float, float | None, "Sign", float]  # share, score, sign, seconds


class Verdict(StrEnum):
    """What a trial does after a report."""

    GO = "go"
    WAIT = "wait"  # save, and give way; it may go on later
    STOP = "stop"  # for good


class Sign(IntEnum):
    """What a trial has shown of a collapse."""

    NONE = 0
    FLAGGED = 1  # a signature
    CONFIRMED = 2  # and its scores have not improved since


def sign_of(signature: str | None, confirmed: int | None, rescues: int) -> Sign:
    """What a report says of a collapse; a rescued trial has shown one, and is not given up."""
    if signature is not None and confirmed is not None and not rescues:
        return Sign.CONFIRMED
    return Sign.FLAGGED if signature is not None or rescues else Sign.NONE


@dataclass(frozen=True)
class Plan:
    """What a scheduler is told of a search."""

    trials: int
    budget: float | None = None  # in whole trials; None: the scheduler's own
    hours: float | None = None  # instead: of training, summed over trials
    every: float = 0.0  # share between two scores; 0: scored all the time
    grace: float = 0.25  # share before a trial may be stopped
    reduction: float = 3  # ASHA lets one in so many go on


@dataclass
class Member:
    """A trial as a scheduler knows it."""

    state: State = "new"
    points: list[tuple[float, float]] = field(default_factory=list)  # (share, score), oldest first
    seconds: float = 0.0  # of training
    why: str = ""  # it waits, or was stopped

    @property
    def share(self) -> float:
        """How much of its steps it has done, as of its last report."""
        return self.points[-1][0] if self.points else 0.0

    @property
    def best(self) -> float:
        """Its best score."""
        return min((score for _, score in self.points), default=WORST)


class Scheduler(ABC):
    """Trials start in their order; a subclass judges each report."""

    label = "no scheduler"
    waits = False  # whether a trial whose collapse is confirmed only gives way; if not, it ends

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.members = {index: Member() for index in range(plan.trials)}
        self.favoured: list[int] = []

    def begin(self, index: int) -> None:
        """The trial starts, or goes on."""
        self.members[index].state = "running"

    def report(
        self, index: int, share: float, score: float | None, sign: Sign = Sign.NONE, seconds: float = 0.0
    ) -> Verdict:
        """Take a score after `share` of the trial's steps, and what it has shown of a collapse.

        A trial that went back to a checkpoint reports again what it had reported since.
        """
        trial = self.members[index]
        trial.seconds = seconds
        trial.points = [point for point in trial.points if point[0] < share] + [(share, finite_or_worst(score))]
        verdict = Verdict.GO if share >= 1 else self.judge(index, sign)
        if verdict is not Verdict.GO:
            trial.state = "waiting" if verdict is Verdict.WAIT else "over"
        return verdict

    @abstractmethod
    def judge(self, index: int, sign: Sign) -> Verdict:
        """What becomes of a trial after the report that it has just made; sets its `why`."""

    def end(self, index: int, collapsed: bool = False) -> None:
        """The trial is over: completed, collapsed for good, or failed."""
        self.members[index].state = "over"

    def replay(self, index: int, reports: Iterable[Report], state: State) -> None:
        """What a trial had reported before the search was interrupted, and what it was: running is to go on."""
        for report in reports:
            self.begin(index)
            self.report(index, *report)
        self.members[index].state = "new" if state == "running" else state

    def favour(self, index: int) -> None:
        """Somebody asks that this trial goes on, before all others and to its end."""
        self.favoured.append(index)

    def next(self) -> int | None:
        """The trial to start, or to go on with, where there is room for one; None: none, for now or for good."""
        asked = [index for index in self.favoured if self.members[index].state == "waiting"]
        return asked[0] if asked else self.choose()

    def choose(self) -> int | None:
        """`next`, where nobody has asked for a certain one."""
        return next((index for index, trial in self.members.items() if trial.state == "new"), None)

    @property
    def finished(self) -> bool:
        """Whether nothing runs, and nothing is to run."""
        return not any(trial.state == "running" for trial in self.members.values()) and self.next() is None


class ToTheEnd(Scheduler):
    """Every trial runs to its end, unless it collapses."""

    def judge(self, index: int, sign: Sign) -> Verdict:
        return Verdict.GO


def promise(points: Sequence[tuple[float, float]]) -> float:
    """What a trial's log score may be at its end: the level of its last three scores, carried on along their trend.

    The trend is a power law of the share, log score = a + b log share, fitted to the second half of the scores, with
    b in [-1.5, 0]: a score that rises is not held to go on rising. inf without a finite score.
    """
    known = [(math.log(share), math.log(score)) for share, score in points if 0 < score < WORST and share > 0]
    if not known:
        return math.inf
    late = known[-max(2, len(known) // 2) :]
    mx, my = (sum(point[k] for point in late) / len(late) for k in (0, 1))
    spread = sum((x - mx) ** 2 for x, _ in late)
    slope = sum((x - mx) * (y - my) for x, y in late) / spread if spread else 0.0
    last = sorted(y for _, y in known[-3:])
    level = last[len(last) // 2] if len(last) % 2 else sum(last) / 2
    return level - min(max(slope, -1.5), 0.0) * known[-1][0]


# ---------------------------------------------------------------------------------------------- by name


@dataclass(frozen=True)
class Kind:
    """A scheduler's name in sentences, what it does, and how it is built; only `build` may import Ray."""

    label: str
    about: Callable[[Plan], str]
    build: Callable[[Plan], Scheduler]


def _about_freeze_thaw(plan: Plan) -> str:
    from act_ray.tune.freeze_thaw import FreezeThaw

    return FreezeThaw(plan).describe()


def _about_stopping(plan: Plan) -> str:
    return f"stops trials for good, from {plan.grace:.0%} of their steps on"


def _freeze_thaw(plan: Plan) -> Scheduler:
    from act_ray.tune.freeze_thaw import FreezeThaw

    return FreezeThaw(plan)


def _asha(plan: Plan) -> Scheduler:
    from act_ray.tune.ray_schedulers import asha

    return asha(plan)


def _median(plan: Plan) -> Scheduler:
    from act_ray.tune.ray_schedulers import median

    return median(plan)


SCHEDULERS = {
    "freeze-thaw": Kind("freeze-thaw", _about_freeze_thaw, _freeze_thaw),
    "asha": Kind("ASHA", _about_stopping, _asha),
    "median": Kind("the median rule", _about_stopping, _median),
    "none": Kind("no scheduler", lambda _: "every trial runs to its end, unless it collapses", ToTheEnd),
}
