"""Successive halving that waits: at a rung a trial keeps its checkpoint and gives way, and may go on later.

Nothing is thrown away but a run whose values are not finite. All trials run to the first rung; the most promising half
of them goes on to the next, half of those to the end. A trial with a signature of collapse waits at once, behind all
others (postponed), and behind those when its collapse is confirmed (given up). What is then left of the budget, also
what these did not use, goes to the trials that wait, in the order of their promise.
With a budget that is too small for all trials only the first ones take part, so that some come to their end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from act_ray.tune.schedulers import Member, Plan, Report, Scheduler, Sign, State, Verdict, promise

RUNGS = (0.35, 0.6)  # shares of a trial's steps; a trial is scored at the first evaluation from there on
KEEP = (0.5, 0.25)  # of all trials, those that go on from each
EPS = 1e-9


@dataclass
class Climber(Member):
    """A trial that may wait at a rung."""

    target: int = 0  # the rung that it may run to; the last of `ends` is its end
    at: list[float] = field(default_factory=list)  # its promise at each rung that it has reached
    sign: Sign = Sign.NONE
    extra: bool = False  # it goes on with what is left of the budget
    interrupted: bool = False  # it ran when the search was interrupted

    @property
    def postponed(self) -> bool:
        """Whether it has shown a signature of collapse."""
        return self.sign is not Sign.NONE


class Halving(Scheduler):
    """See above. Without a budget the search takes what its rungs take, were nothing postponed."""

    label = "halving"
    waits = True
    members: dict[int, Climber]  # type: ignore[assignment]

    def __init__(self, plan: Plan, rungs: Sequence[float] = RUNGS, keep: Sequence[float] = KEEP) -> None:
        super().__init__(plan)
        self.members = {index: Climber() for index in range(plan.trials)}
        levels: dict[float, float] = {}  # rung -> share that goes on
        for rung, share in zip(rungs, keep, strict=True):
            seen = math.ceil(rung / plan.every - EPS) * plan.every if plan.every else rung
            if seen < 1 - EPS:
                levels[seen] = share  # of two rungs with the same first evaluation the later one
        self.ends, self.keep = (*levels, 1.0), tuple(levels.values())
        self.entrants, self.budget = plan.trials, self.cost(plan.trials)
        if plan.budget is not None or plan.hours is not None:
            self.budget = math.inf if plan.budget is None else plan.budget
            while self.entrants > 1 and self.cost(self.entrants) > self.budget + EPS:
                self.entrants -= 1
        self.quota = self.quotas(self.entrants)

    def quotas(self, trials: int) -> list[int]:
        """How many of so many trials go on from each rung."""
        return [max(1, math.ceil(share * trials - EPS)) for share in self.keep]

    def cost(self, trials: int) -> float:
        """Whole trials' worth of steps that so many take."""
        going = zip((trials, *self.quotas(trials)), (0.0, *self.ends[:-1]), self.ends, strict=True)
        return sum(n * (end - start) for n, start, end in going)

    # ------------------------------------------------------------------------------------------ what is told

    def begin(self, index: int) -> None:
        trial = self.members[index]
        waited = trial.state == "waiting"
        trial.extra = waited and (trial.postponed or not self._passes(index, certain=False))
        trial.target, trial.interrupted = max(trial.target, len(trial.at)), False
        if index in self.favoured:
            trial.target = len(self.ends) - 1
        super().begin(index)

    def judge(self, index: int, sign: Sign) -> Verdict:
        trial = self.members[index]
        reached = sum(trial.share >= end - EPS for end in self.ends)
        trial.at += [promise(trial.points)] * (reached - len(trial.at))
        if index in self.favoured:
            return Verdict.GO
        if self.late:
            trial.why = f"waits at {trial.share:.0%}: the budget is spent"
            return Verdict.WAIT
        if sign > trial.sign:
            does = "is given up" if sign is Sign.CONFIRMED else "is postponed"
            trial.sign, trial.why = sign, f"{does} at {trial.share:.0%}"
            return Verdict.WAIT
        if reached <= trial.target:
            return Verdict.GO
        if not trial.postponed and self.spent < self.budget - EPS and self._passes(index, certain=True):
            trial.target = reached
            return Verdict.GO
        trial.why = f"waits at {trial.share:.0%}, where {self.quota[reached - 1]} of {self.entrants} go on"
        trial.state = "waiting"
        if self.choose() != index:
            return Verdict.WAIT
        self.begin(index)  # it would be the next to go on: saving and starting again would be for nothing
        return Verdict.GO

    def replay(self, index: int, reports: Iterable[Report], state: State) -> None:
        super().replay(index, reports, state)
        trial = self.members[index]
        trial.interrupted = state == "running"
        trial.target = len(trial.at) - (state == "waiting" and bool(trial.at))

    # ------------------------------------------------------------------------------------------ what is asked

    def choose(self) -> int | None:
        """Who was interrupted, who goes on for certain, a new trial, who goes on as things are; at last, who waits."""
        members = self.members
        if (index := next((i for i, trial in members.items() if trial.interrupted), None)) is not None:
            return index
        if self.spent >= self.budget - EPS or self.late:
            return None
        waiting = [i for i, trial in members.items() if trial.state == "waiting"]
        sound = [i for i in waiting if not members[i].postponed]
        if (index := self._best([i for i in sound if self._passes(i, certain=True)])) is not None:
            return index
        new = [i for i, trial in members.items() if trial.state == "new"]
        if new and new[0] < self.entrants:
            return new[0]
        if (index := self._best([i for i in sound if self._passes(i, certain=False)])) is not None:
            return index
        # As long as another one may come to a rung, who goes on there is not settled.
        last = len(self.ends) - 1
        if any(t.state == "running" and not (t.postponed or t.extra) and t.target < last for t in members.values()):
            return None
        if (index := self._best(sound)) is not None:
            return index
        return new[0] if new else self._best(waiting)

    @property
    def late(self) -> bool:
        """Whether the hours are over."""
        return self.plan.hours is not None and sum(t.seconds for t in self.members.values()) >= 3600 * self.plan.hours

    @property
    def spent(self) -> float:
        """Whole trials' worth of steps, with what the running ones take to their next rung."""
        return sum(
            max(trial.share, self.ends[min(trial.target, len(self.ends) - 1)])
            if trial.state == "running"
            else trial.share
            for trial in self.members.values()
        )

    def _best(self, indices: Sequence[int]) -> int | None:
        """The one furthest on, and of those the most promising; a collapse that is confirmed comes last."""
        return min(indices, key=self._order, default=None)

    def _order(self, index: int) -> tuple[bool, int, float]:
        trial = self.members[index]
        return trial.sign is Sign.CONFIRMED, -len(trial.at), promise(trial.points)

    def _passes(self, index: int, certain: bool) -> bool:
        """Whether the trial is among those that go on from its rung; `certain`: whatever the others do."""
        trial, everyone = self.members[index], self.members.values()
        rung = len(trial.at) - 1
        if rung < 0 or trial.target > rung:
            return rung >= 0
        if rung >= len(self.quota):
            return False
        here = [other for other in everyone if len(other.at) > rung]
        better = sum(not other.postponed and other.at[rung] < trial.at[rung] for other in here if other is not trial)
        if not certain:
            return sum(other.target > rung for other in everyone) < self.quota[rung] and better < self.quota[rung]
        to_come = self.entrants if rung == 0 else self.quota[rung - 1]
        lost = sum(
            len(other.at) <= rung and (other.postponed or other.state == "over") and other.target >= rung
            for other in everyone
        )
        return better + max(0, to_come - len(here) - lost) < self.quota[rung]

    def standing(self, index: int) -> list[str]:
        """A trial's place at each rung that it has reached, and the promise that it would have needed to go on."""
        lines, trial = [], self.members[index]
        if trial.sign is Sign.CONFIRMED:
            return ["its collapse is confirmed, and it waits behind all others, whatever its trend"]
        if trial.postponed:
            return ["it has shown a signature of collapse, and waits behind all others that wait, whatever its trend"]
        for rung, own in enumerate(trial.at[: len(self.quota)]):
            sound = [other for other in self.members.values() if not other.postponed]
            here = sorted(other.at[rung] for other in sound if len(other.at) > rung)
            place, quota = here.index(own) + 1, self.quota[rung]
            lines.append(
                f"at {self.ends[rung]:.0%} of its steps its trend promised {math.exp(own):.4g} at the end: {place}. of "
                f"{len(here)}, of which {quota} go on"
            )
            if place > quota:
                lines.append(f"it would have gone on with a promise under {math.exp(here[quota - 1]):.4g}")
        return lines

    def describe(self) -> str:
        """What it will do."""
        steps = ", ".join(f"{n} go on at {end:.0%}" for n, end in zip(self.quota, self.ends, strict=False))
        first = (
            f"of {self.entrants} trials " if self.entrants == self.plan.trials else f"{self.entrants} trials begin; "
        )
        hours = self.plan.hours
        whole = f"{hours:g} hours" if hours else f"{min(1, self.budget / self.plan.trials):.0%} of all steps"
        return f"{first}{steps}; the others wait; it takes {whole}"
