"""Successive halving that waits: at a rung a trial keeps its checkpoint and gives way, and may go on later.

Nothing is thrown away. All trials run to the first rung; the most promising half of them goes on to the next, half of
those to the end. A trial with a signature of collapse waits at once, behind all others (`postponed`). What is then left
of the budget, also what the postponed ones did not use, goes to the trials that wait, in the order of their promise.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from act_ray.tune.schedulers import Member, Plan, Report, Scheduler, State, Verdict, promise

RUNGS = (0.35, 0.6)  # shares of a trial's steps
KEEP = (0.5, 0.25)  # of all trials, those that go on from each


@dataclass
class Climber(Member):
    """A trial that may wait at a rung."""

    target: int = 0  # the rung that it may run to; len(rungs): its end
    at: list[float] = field(default_factory=list)  # its promise at each rung that it has reached
    postponed: bool = False
    interrupted: bool = False  # it ran when the search was interrupted

    @property
    def order(self) -> tuple[bool, float]:
        """The smaller the sooner: by promise, those with a signature of collapse behind all others."""
        return self.postponed, promise(self.points)


class Halving(Scheduler):
    """See above. Without a budget the search takes what its rungs take, were nothing postponed."""

    label = "halving"
    members: dict[int, Climber]  # type: ignore[assignment]

    def __init__(self, plan: Plan, rungs: Sequence[float] = RUNGS, keep: Sequence[float] = KEEP) -> None:
        super().__init__(plan)
        self.members = {index: Climber() for index in range(plan.trials)}
        self.ends = (*rungs, 1.0)
        self.quota = [max(1, math.ceil(share * plan.trials)) for share in keep]
        going = zip((plan.trials, *self.quota), (0.0, *rungs), self.ends, strict=True)
        self.budget = sum(n * (end - start) for n, start, end in going)
        if plan.budget is not None or plan.hours is not None:
            self.budget = math.inf if plan.budget is None else plan.budget

    def begin(self, index: int) -> None:
        super().begin(index)
        trial = self.members[index]
        trial.target, trial.interrupted = max(trial.target, len(trial.at)), False

    def judge(self, index: int, flagged: bool) -> Verdict:
        trial = self.members[index]
        reached = sum(trial.share >= end for end in self.ends)
        trial.at += [promise(trial.points)] * (reached - len(trial.at))
        if self.late:
            trial.why = f"waits at {trial.share:.0%}: the budget is spent"
            return Verdict.WAIT
        if flagged and not trial.postponed:
            trial.postponed, trial.why = True, f"postponed at {trial.share:.0%}"
            return Verdict.WAIT
        if reached <= trial.target:
            return Verdict.GO
        if not trial.postponed and self._passes(index, certain=True):
            trial.target = reached
            return Verdict.GO
        trial.why = f"waits at {trial.share:.0%}, where {self.quota[reached - 1]} of {self.plan.trials} go on"
        return Verdict.WAIT

    def replay(self, index: int, reports: Iterable[Report], state: State) -> None:
        super().replay(index, reports, state)
        trial = self.members[index]
        trial.interrupted = state == "running"
        trial.target = len(trial.at) - (state == "waiting" and bool(trial.at))

    def next(self) -> int | None:
        """Who was interrupted, who goes on for certain, a new trial, who goes on as things are; at last, who waits."""
        if (index := next((i for i, trial in self.members.items() if trial.interrupted), None)) is not None:
            return index
        if self.spent >= self.budget - 1e-9 or self.late:
            return None
        waiting = [i for i, trial in self.members.items() if trial.state == "waiting"]
        sound = [i for i in waiting if not self.members[i].postponed]
        if (index := self._best([i for i in sound if self._passes(i, certain=True)])) is not None:
            return index
        if (index := super().next()) is not None:
            return index
        if (index := self._best([i for i in sound if self._passes(i, certain=False)])) is not None:
            return index
        if any(trial.state == "running" for trial in self.members.values()):
            return None
        return self._best(waiting)

    @property
    def late(self) -> bool:
        """Whether the hours are over."""
        return self.plan.hours is not None and sum(t.seconds for t in self.members.values()) >= 3600 * self.plan.hours

    @property
    def spent(self) -> float:
        """Whole trials' worth of steps, with what the running ones take to their next rung."""
        return sum(
            max(trial.share, self.ends[trial.target]) if trial.state == "running" else trial.share
            for trial in self.members.values()
        )

    def _best(self, indices: Sequence[int]) -> int | None:
        """The one furthest on, and of those the most promising."""
        key = {
            i: (self.members[i].postponed, -len(self.members[i].at), promise(self.members[i].points)) for i in indices
        }
        return min(indices, key=lambda i: key[i], default=None)

    def _passes(self, index: int, certain: bool) -> bool:
        """Whether the trial is among those that go on from its rung; `certain`: whatever the others do."""
        trial, everyone = self.members[index], self.members.values()
        rung = len(trial.at) - 1
        if rung < 0 or trial.target > rung:
            return rung >= 0
        here = [other for other in everyone if len(other.at) > rung]
        better = sum(not other.postponed and other.at[rung] < trial.at[rung] for other in here if other is not trial)
        if not certain:
            return sum(other.target > rung for other in everyone) < self.quota[rung] and better < self.quota[rung]
        to_come = self.plan.trials if rung == 0 else self.quota[rung - 1]
        lost = sum(
            len(other.at) <= rung and (other.postponed or other.state == "over") and other.target >= rung
            for other in everyone
        )
        return better + max(0, to_come - len(here) - lost) < self.quota[rung]

    def describe(self) -> str:
        rungs = zip(self.quota, self.ends, strict=False)
        steps = ", ".join(f"{n} of {self.plan.trials} go on at {end:.0%}" for n, end in rungs)
        whole = (
            f"{self.plan.hours:g} hours"
            if self.plan.hours
            else f"{min(1, self.budget / self.plan.trials):.0%} of all steps"
        )
        return f"{steps}; the others wait; it takes {whole}"
