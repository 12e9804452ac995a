"""ASHA as published, which pauses and promotes, PASHA and successive halving, beside the product's own schedulers.

`python benchmarks/search/promotion.py TRACES [--split held-out]`. None is in the product: docs/results.md says why.
"""

import math

import click
from rich.console import Console

from act_ray.metrics.scores import WORST
from act_ray.tune.schedulers import SCHEDULERS, Kind, Plan, Scheduler, Sign, Verdict, promise
from act_ray.tune.simulate import explain_table, make_table, simulate
from act_ray.tune.space_files import load_space

EPS = 1e-9


class Asha(Scheduler):
    """ASHA (Li et al., 2020): one in eta of the trials at a rung goes on whenever there is room; else a new one begins.

    Signatures of collapse are ignored, as freeze-thaw does but between equals: heeding them loses winners.
    """

    label = "ASHA, promoting"
    waits = True  # a confirmed collapse ends none: as with freeze-thaw, what is measured is the rule alone

    def __init__(self, plan: Plan, first: float = 0.25, eta: float = 2.0) -> None:
        super().__init__(plan)
        self.eta = eta
        shares = [first * eta**k for k in range(99) if first * eta**k < 1 - EPS]
        self.ends = [*(math.ceil(s / plan.every - EPS) * plan.every if plan.every else s for s in shares), 1.0]
        self.at: list[dict[int, float]] = [{} for _ in self.ends]  # score at each rung
        self.target = dict.fromkeys(self.members, 0)
        self.promoted: list[set[int]] = [set() for _ in self.ends]

    @property
    def top(self) -> int:
        """The highest rung that trials may go to."""
        return len(self.ends) - 1

    def judge(self, index: int, sign: Sign) -> Verdict:
        trial, rung = self.members[index], self.target[index]
        if trial.share < self.ends[rung] - EPS:
            return Verdict.GO
        self.at[rung][index] = trial.best
        return Verdict.WAIT

    def end(self, index: int, collapsed: bool = False) -> None:
        if collapsed:
            for rung in range(self.target[index], len(self.ends)):
                self.at[rung][index] = WORST
        super().end(index, collapsed)

    def promotable(self) -> int | None:
        """The best trial of the highest rung that has one to promote."""
        for rung in reversed(range(self.top)):
            ranked = sorted(self.at[rung], key=self.at[rung].__getitem__)
            for index in ranked[: int(len(ranked) / self.eta)]:
                if index not in self.promoted[rung] and self.members[index].state == "waiting":
                    return index
        return None

    def choose(self) -> int | None:
        index = self.promotable()
        return super().choose() if index is None else index

    def begin(self, index: int) -> None:
        if self.members[index].state == "waiting":
            self.promoted[self.target[index]].add(index)
            self.target[index] += 1
        super().begin(index)


class Pasha(Asha):
    """PASHA (Bohdal et al., 2022): no trial goes above a rung as long as the two highest agree; then the best one does.

    The scores of two trials of a rung that are within 2% of each other may change places.
    """

    label = "PASHA"
    highest = 1
    final: int | None = None  # who goes to its end

    @property
    def top(self) -> int:
        return min(self.highest, len(self.ends) - 1)

    def judge(self, index: int, sign: Sign) -> Verdict:
        verdict = super().judge(index, sign)
        if verdict is Verdict.WAIT and self.target[index] == self.top < len(self.ends) - 1 and not self.agree():
            self.highest += 1
        return verdict

    def agree(self) -> bool:
        """Whether the trials of the highest rung have the order that they had at the rung below."""
        high, low = self.at[self.top], self.at[self.top - 1]
        before, after = sorted(high, key=low.__getitem__), sorted(high, key=high.__getitem__)
        return all(a == b or abs(math.log(low[a] / low[b])) < 0.02 for a, b in zip(before, after, strict=True))

    def choose(self) -> int | None:
        if self.final is None:
            index = super().choose()
            if index is not None or any(m.state == "running" for m in self.members.values()):
                return index
            waiting = [(m.best, i) for i, m in self.members.items() if m.state == "waiting"]
            if not waiting:
                return None
            self.final, self.highest = min(waiting)[1], len(self.ends) - 1
        return self.final if self.members[self.final].state == "waiting" else None


class SuccessiveHalving(Asha):
    """All trials to the first rung; the more promising half of them to the next; half of those to the end."""

    label = "successive halving"

    def __init__(self, plan: Plan, first: float = 0.3, eta: float = 2.0) -> None:
        super().__init__(plan, first, eta)

    def judge(self, index: int, sign: Sign) -> Verdict:
        verdict = super().judge(index, sign)
        if verdict is Verdict.WAIT:
            self.at[self.target[index]][index] = promise(self.members[index].points)
        return verdict

    def choose(self) -> int | None:
        members = self.members
        new = [i for i, m in members.items() if m.state == "new"]
        if new:
            return new[0]
        for rung in range(self.top):
            if any(m.state == "running" and self.target[i] == rung for i, m in members.items()):
                return None  # who goes on is not settled
            ranked = sorted(self.at[rung], key=self.at[rung].__getitem__)
            for index in ranked[: math.ceil(len(ranked) / self.eta)]:
                if index not in self.promoted[rung] and members[index].state == "waiting":
                    return index
        return None


ADDED = {
    "successive halving": Kind("successive halving", lambda _: "", SuccessiveHalving),
    "promoting": Kind("ASHA, promoting", lambda _: "", Asha),
    "promoting, 40%": Kind("ASHA, promoting", lambda _: "", lambda plan: Asha(plan, 0.4, 2.0)),
    "promoting, eta 3": Kind("ASHA, promoting", lambda _: "", lambda plan: Asha(plan, 1 / 9, 3.0)),
    "pasha": Kind("PASHA", lambda _: "", lambda plan: Pasha(plan, 1 / 8, 2.0)),
}


@click.command()
@click.argument("traces")
@click.option("--split", type=click.Choice(["fit", "held-out"]))
@click.option("--trials", default=16, show_default=True)
@click.option("--resamples", default=1000, show_default=True)
def main(traces: str, split: str | None, trials: int, resamples: int) -> None:
    """Replay searches over TRACES."""
    SCHEDULERS.update(ADDED)
    space = load_space("digits", {"trials": trials})
    console = Console(width=130, highlight=False)
    console.print(make_table([*simulate(traces, space, None, split, list(SCHEDULERS), 2, resamples)]))
    console.print(explain_table(resamples))


if __name__ == "__main__":
    main()
