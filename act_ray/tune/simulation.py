"""Replays searches over recorded runs: the very schedulers and the very detector of a real search, without training."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from act_ray.collapse.rules import CollapseConfig
from act_ray.train.detect import feed, make_detector
from act_ray.tune.recorded import Recorded
from act_ray.tune.schedulers import Plan, Scheduler, Sign, Verdict

TIE = 1.02  # a best score within 2% of the unpruned search's is as good
NEAR = 1.5  # a trial that would have ended within 1.5 times the best must not be stopped for good


@dataclass(frozen=True)
class Watched:
    """A run as a search sees it: its reports, and when a detector flagged it, and gave it up, in steps."""

    run: Recorded
    flagged: int | None
    stopped: int | None

    @cached_property
    def reports(self) -> list[tuple[float, float]]:
        """(share, score), oldest first."""
        return [(row["step"] / self.run.total, row["score"]) for row in self.run.scores]

    def best_after(self, share: float) -> float:
        """The best score that comes after this share of its steps."""
        return min((score for at, score in self.reports if at > share), default=math.inf)

    @cached_property
    def flagged_at(self) -> float:
        """The share from which its reports say that it was flagged."""
        return math.inf if self.flagged is None else self.flagged / self.run.total

    @cached_property
    def stopped_at(self) -> float:
        """The share from which its collapse is confirmed."""
        return math.inf if self.stopped is None else self.stopped / self.run.total

    @cached_property
    def diverged_at(self) -> float:
        """The share at which nothing can go on."""
        return math.inf if self.run.diverged is None else self.run.diverged / self.run.total

    def sign(self, share: float) -> Sign:
        """What it has shown of a collapse by then."""
        if share >= self.stopped_at:
            return Sign.CONFIRMED
        return Sign.FLAGGED if share >= self.flagged_at else Sign.NONE


@dataclass(frozen=True)
class Replay:
    """What a replayed search came to."""

    best: float  # over that of the search in which every trial runs to its end
    compute: float  # images, over those of that search
    lost: int  # trials that were stopped for good, and would have had a score within NEAR times the best after that
    stopped: int  # trials that were stopped for good
    curve: list[tuple[float, float]]  # (compute, best so far)


def watch(run: Recorded, cfg: CollapseConfig) -> Watched:
    """Replay the detector over a run."""
    detector = make_detector(run.cfg.model_copy(update={"collapse": cfg}))
    flagged = None
    for step in feed(detector, run.rows(), run.scores):
        if run.diverged is not None and step >= run.diverged:
            return Watched(run, flagged if flagged is not None else run.diverged, run.diverged)
        if flagged is None and detector.record is not None:
            flagged = step
        if detector.confirmed:
            return Watched(run, flagged, step)
    return Watched(run, flagged, None)


def replay(trials: Sequence[Watched], scheduler: Scheduler, workers: int) -> Replay:
    """A search over `trials`, `workers` at a time, each at its recorded images' pace."""
    planned = [trial.run.total * trial.run.cfg.train.global_batch for trial in trials]
    clock: list[tuple[float, int, int]] = []  # (images of a worker when it reports, a counter, trial)
    done = [0] * len(trials)  # reports
    now, spent, best, running = 0.0, 0.0, math.inf, 0
    ends = [trial.diverged_at if scheduler.waits else trial.stopped_at for trial in trials]
    stopped, curve = list[tuple[int, float]](), list[tuple[float, float]]()  # (trial, share)

    def cost(index: int) -> float:
        points, i = trials[index].reports, done[index]
        share = min(points[i][0], ends[index]) - (points[i - 1][0] if i else 0.0)
        return max(share, 0.0) * planned[index]

    def start() -> None:
        nonlocal running
        while running < workers and (index := scheduler.next()) is not None:
            scheduler.begin(index)
            running += 1
            heapq.heappush(clock, (now + cost(index), len(curve), index))

    start()
    while clock:
        now, _, index = heapq.heappop(clock)
        trial, points = trials[index], trials[index].reports
        spent += cost(index)
        share, score = points[done[index]]
        ended = share >= 1
        if share >= ends[index]:
            scheduler.end(index, collapsed=True)
            stopped.append((index, ends[index]))
            running -= 1
            start()
            continue
        done[index] += 1
        best = min(best, score)
        curve.append((spent / sum(planned), best))
        verdict = scheduler.report(index, share, score, trial.sign(share))
        if ended:
            scheduler.end(index)
        elif verdict is Verdict.GO:
            heapq.heappush(clock, (now + cost(index), len(curve), index))
            continue
        elif verdict is Verdict.STOP:
            stopped.append((index, share))
        running -= 1
        start()
    unpruned = min(trial.run.best for trial in trials)
    lost = sum(trials[index].best_after(share) <= NEAR * unpruned for index, share in stopped)
    return Replay(best / unpruned, spent / sum(planned), lost, len(stopped), [(c, b / unpruned) for c, b in curve])


def resample(
    runs: Sequence[Watched], build: Callable[[Plan], Scheduler], plan: Plan, workers: int, resamples: int, seed: int = 0
) -> list[Replay]:
    """Replays of `resamples` searches of plan.trials runs each, drawn without replacement, always the same ones."""
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(runs), plan.trials, replace=False) for _ in range(resamples)]
    return [replay([runs[i] for i in draw], build(plan), workers) for draw in draws]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, q = hits / n, z * z / n
    middle, half = (p + q / 2) / (1 + q), z * math.sqrt(p * (1 - p) / n + q / (4 * n)) / (1 + q)
    return max(0.0, middle - half), min(1.0, middle + half)
