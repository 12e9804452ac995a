"""Freeze and thaw: every trial begins, waits with its checkpoint, and the most promising one goes on a slice at a time.

After Swersky, Snoek and Adams, Freeze-Thaw Bayesian Optimization (2014), with a power law in place of their process.
Nothing is thrown away but a run whose values are not finite. What is left of the budget is meant for the most promising
trials first: one goes on only if enough is left for all that promise more to come to their end. Of two that promise
about the same the one without a signature of collapse goes first; a larger HANDICAP lost winners (docs/collapse.md).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from act_ray.tune.schedulers import Member, Plan, Report, Scheduler, Sign, State, Verdict, promise

FIRST = 0.25  # share of its steps that every trial does, to the first score from there on
SLICE = 0.1  # share that it goes on by, to the first score from there on
SHARE = 0.6  # of all steps, where no budget is given
OPTIMISM = 0.5  # a promise may be out by a factor of e^.5 at its beginning, by none at its end: the unknown goes on
HANDICAP = 1.1  # with a signature of collapse, confirmed or not, a trial counts as so many times its promise
EPS = 1e-9


@dataclass
class Frozen(Member):
    """A trial that may wait."""

    goal: float = 0.0  # the share that it may run to
    sign: Sign = Sign.NONE
    interrupted: bool = False  # it ran when the search was interrupted

    @property
    def ahead(self) -> float:
        """The share that is paid for: what it has done, or runs to."""
        return max(self.share, min(1.0, self.goal)) if self.state == "running" else self.share

    @property
    def rank(self) -> float:
        """The log score that it may end with; the lowest goes on first."""
        return promise(self.points) + math.log(HANDICAP if self.sign else 1.0) - OPTIMISM * (1 - self.share)


class FreezeThaw(Scheduler):
    """See above."""

    label = "freeze-thaw"
    waits = True
    members: dict[int, Frozen]  # type: ignore[assignment]

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.members = {index: Frozen() for index in range(plan.trials)}
        self.first, self.slice = (self._scored(share) for share in (FIRST, SLICE))

    def _scored(self, share: float) -> float:
        """The share at the first score from there on."""
        every = self.plan.every
        return min(1.0, math.ceil(share / every - EPS) * every) if every else share

    def _next(self, trial: Frozen) -> float:
        """The end of the slice that it is in, or begins: the run's, where less than another slice would be left.

        Slices end at the same shares whenever a trial was interrupted.
        """
        if trial.share < self.first - EPS:
            return self.first
        goal = self.first + (math.floor((trial.share - self.first) / self.slice + EPS) + 1) * self.slice
        return goal if goal + self.slice <= 1 + EPS else 1.0

    # ------------------------------------------------------------------------------------------ what is told

    def begin(self, index: int) -> None:
        trial = self.members[index]
        trial.goal = 1.0 if index in self.favoured else self._next(trial)
        trial.interrupted = False
        super().begin(index)

    def judge(self, index: int, sign: Sign) -> Verdict:
        trial = self.members[index]
        trial.sign = max(sign, trial.sign)
        if index in self.favoured:
            return Verdict.GO
        if self.late:
            trial.why = f"waits at {trial.share:.0%}: the budget is spent"
            return Verdict.WAIT
        if trial.share < trial.goal - EPS:
            return Verdict.GO
        trial.state = "waiting"
        if self.next() == index:  # saving and starting again would be for nothing
            self.begin(index)
            return Verdict.GO
        new = any(other.state == "new" for other in self.members.values())
        alive, rank = [other for other in self.members.values() if other.state in ("running", "waiting")], trial.rank
        better = sum(other.rank < rank for other in alive)
        behind = "until others have begun" if new else f"behind {better} that promise more"
        trial.why = f"waits at {trial.share:.0%}, {behind if new or better else 'as the budget is spent'}"
        return Verdict.WAIT

    def replay(self, index: int, reports: Iterable[Report], state: State) -> None:
        for share, score, sign, seconds in reports:
            self.members[index].goal = 1.0  # what it did was decided then
            self.report(index, share, score, sign, seconds)
        self.members[index].state = "new" if state == "running" else state
        self.members[index].interrupted = state == "running"

    # ------------------------------------------------------------------------------------------ what is asked

    def choose(self) -> int | None:
        """Who was interrupted; a new trial; the most promising one that waits, if it may go on."""
        members = self.members
        if (index := next((i for i, trial in members.items() if trial.interrupted), None)) is not None:
            return index
        if self.late:
            return None
        room = self.budget - self.spent
        new = [i for i, trial in members.items() if trial.state == "new"]
        waiting = [i for i, trial in members.items() if trial.state == "waiting"]
        idle = not waiting and not any(trial.state == "running" for trial in members.values())
        begun = sum(min(trial.ahead, self.first) for trial in members.values())
        enter = begun + self.first <= self.budget * self.first / SHARE + EPS  # fewer, if the budget is small
        if new and (enter or idle) and (self.first <= room + EPS or len(new) == len(members)):
            return new[0]
        if not waiting:
            return None
        rank, index = min((members[i].rank, i) for i in waiting)
        trial = members[index]
        before = sum(1 - other.ahead for other in members.values() if other.state == "running" and other.rank < rank)
        return index if before + self._next(trial) - trial.share <= room + EPS else None

    @property
    def late(self) -> bool:
        """Whether the hours are over."""
        return self.plan.hours is not None and self.seconds >= 3600 * self.plan.hours

    @property
    def seconds(self) -> float:
        """Of training, over all trials."""
        return sum(trial.seconds for trial in self.members.values())

    @property
    def spent(self) -> float:
        """Whole trials' worth of steps, with what the running ones are to do."""
        return sum(trial.ahead for trial in self.members.values())

    @property
    def budget(self) -> float:
        """Whole trials' worth of steps; of hours, as many as they last for at the pace so far."""
        if self.plan.hours is not None:
            done = sum(trial.share for trial in self.members.values())
            return 3600 * self.plan.hours * done / self.seconds if self.seconds else math.inf
        return SHARE * self.plan.trials if self.plan.budget is None else self.plan.budget

    def standing(self, index: int) -> list[str]:
        """What a waiting trial promises, and what those promise that went further."""
        trial = self.members[index]
        if promise(trial.points) == math.inf:
            return [f"it has no score after {trial.share:.0%} of its steps"]
        lines = [
            f"at {trial.share:.0%} of its steps its trend promised {math.exp(promise(trial.points)):.4g} at the end"
        ]
        if trial.sign is not Sign.NONE:
            what = "a signature of collapse" if trial.sign is Sign.FLAGGED else "a confirmed collapse"
            lines.append(f"it counted as {HANDICAP:g} times that, for {what}")
        further = [
            other for other in self.members.values() if other.share > trial.share + EPS and other.rank < math.inf
        ]
        if further:
            promises = sorted(math.exp(promise(other.points)) for other in further)
            low, high = promises[0], promises[-1]
            lines.append(f"{len(further)} others went further, and promise {low:.4g} to {high:.4g} now")
        return lines

    def describe(self) -> str:
        """What it will do."""
        if self.plan.hours:
            whole = f"{self.plan.hours:g} hours"
            begin = "trials begin"
        else:
            whole = f"{min(1.0, self.budget / self.plan.trials):.0%} of all steps"
            entrants = min(self.plan.trials, max(1, math.floor(self.budget / SHARE + EPS)))
            begin = "all begin" if entrants == self.plan.trials else f"{entrants} of {self.plan.trials} begin"
        return f"{begin}, with {self.first:.0%} of their steps; the most promising go on until {whole} are spent"
