"""The signatures of collapse of the paper, one pure function each, over a trace of block medians."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from act_ray.collapse.config import CollapseConfig

DETECTOR_VERSION = "1"  # of the rules: change it whenever one could decide otherwise

_HEAD = 4  # blocks whose median starts the level: a single one would make a low draw the running minimum for good
_CLIP = 3.0  # a block moves the level as if it were at most e^3 = 20 times away, so that one outlier cannot trip it
_DIFF_SD = 0.954  # median of |a - b| for a, b ~ N(0, 1)

Window = list[tuple[int, float]]


@dataclass(frozen=True)
class Block:
    """Medians over the steps before `step` (exclusive end): log ||grad_x D||^2 without w_gp, and L_CT."""

    step: int
    log_gp: float | None
    loss_ct: float | None


@dataclass(frozen=True)
class Evaluation:
    """Diversity: mean pairwise distance of samples over that of the data. Score: a Frechet distance, lower better."""

    step: int
    diversity: float | None
    score: float | None


@dataclass(frozen=True)
class Broken:
    """The first value that was not finite."""

    step: int
    name: str
    value: float


@dataclass
class Trace:
    """What a run has shown so far; `block_steps` is the length of a block in steps."""

    total_steps: int
    block_steps: float
    blocks: list[Block] = field(default_factory=list)
    evals: list[Evaluation] = field(default_factory=list)
    broken: Broken | None = None


@dataclass(frozen=True)
class Finding:
    """A signature that was met: `value` passed `threshold`; `window` is the (step, value) pairs that did it."""

    signature: str
    step: int
    value: float
    threshold: float
    message: str
    window: Window


@dataclass(frozen=True)
class Level:
    """After a block: EMA of log ||grad D||^2, its rise over its running minimum, and the Page-Hinkley sum.

    `before` is the highest level before that minimum: a rise back to it is the end of a dip, not a drift.
    """

    step: int
    level: float
    rise: float
    page_hinkley: float
    before: float


# ---------------------------------------------------------------------------------------------- series the rules use


def settled(trace: Trace, cfg: CollapseConfig) -> Window:
    """(step, log ||grad D||^2) of the blocks after the warm-up."""
    start, floor = cfg.warmup * trace.total_steps, math.log(cfg.gp_floor)
    return [
        (b.step, max(b.log_gp, floor))
        for b in trace.blocks
        if b.log_gp is not None and b.step - trace.block_steps >= start
    ]


def levels(trace: Trace, cfg: CollapseConfig) -> list[Level]:
    """Levels after the warm-up; Page-Hinkley of Page (1954): m_t = sum(x - mean - delta), PH = m_t - min m_t."""
    points = settled(trace, cfg)
    if len(points) < _HEAD:
        return []
    level = lowest = mean = median(x for _, x in points[:_HEAD])
    highest = before = level
    total = least = 0.0
    out = [Level(points[_HEAD - 1][0], level, 0.0, 0.0, before)]
    for n, (step, raw) in enumerate(points[_HEAD:], start=_HEAD + 1):
        x = level + min(max(raw - level, -_CLIP), _CLIP)
        mean += (x - mean) / n
        total += x - mean - cfg.drift_delta
        least = min(least, total)
        level += cfg.ema * (x - level)
        highest = max(highest, level)
        if level < lowest:
            lowest, before = level, highest
        out.append(Level(step, level, level - lowest, total - least, before))
    return out


def noise(trace: Trace, cfg: CollapseConfig) -> float:
    """Standard deviation of the level by chance alone; differences of neighbours are not misled by a drift."""
    jumps = [abs(b - a) for (_, a), (_, b) in pairwise(settled(trace, cfg))]
    return median(jumps) / _DIFF_SD * math.sqrt(cfg.ema / (2 - cfg.ema)) if jumps else 0.0


def smoothed(points: Sequence[tuple[int, float]]) -> Window:
    """Median of each value with the two before it; empty for fewer than three."""
    return [(points[i][0], median(v for _, v in points[i - 2 : i + 1])) for i in range(2, len(points))]


def losses(trace: Trace) -> Window:
    """(step, block median of L_CT)."""
    return [(b.step, b.loss_ct) for b in trace.blocks if b.loss_ct is not None]


def diversities(trace: Trace) -> Window:
    """(step, diversity) of the evaluations that measured it."""
    return [(e.step, e.diversity) for e in trace.evals if e.diversity is not None]


def score_is_worse(trace: Trace, cfg: CollapseConfig) -> bool:
    """Whether each of the last evaluations scored more than score_ratio times the best up to then."""
    scores = [e.score for e in trace.evals if e.score is not None]
    if len(scores) <= cfg.score_patience or min(scores) <= 0:  # no ratio of scores that are not distances
        return False
    last = range(len(scores) - cfg.score_patience, len(scores))
    return all(scores[i] > cfg.score_ratio * min(scores[: i + 1]) for i in last)


# ------------------------------------------------------------------------------------------------------- signatures


def spike(trace: Trace, cfg: CollapseConfig) -> Finding | None:
    """Paper Fig. 4: ||grad D||^2 rises drastically within few blocks and L_CT turns unstable at or after it."""
    gp, loss = smoothed(settled(trace, cfg)), smoothed(losses(trace))
    if len(loss) < 2 * cfg.spike_blocks:
        return None
    reach = cfg.spike_blocks * trace.block_steps
    recent = [(step, v) for step, v in gp if step > trace.blocks[-1].step - reach]
    if len(recent) < 2:
        return None
    low = min(recent, key=lambda p: p[1])
    high = max((p for p in recent if p[0] >= low[0]), key=lambda p: p[1])
    usual = median(v for _, v in loss[-2 * cfg.spike_blocks : -cfg.spike_blocks])
    after = max((v for step, v in loss if step >= high[0]), default=0.0)
    ratio = math.exp(high[1] - low[1])
    if ratio <= cfg.spike_ratio or after <= cfg.spike_loss_ratio * usual:
        return None
    message = (
        f"||grad D||^2 spiked from {math.exp(low[1]):.3g} to {math.exp(high[1]):.3g} "
        f"(x{ratio:.3g}, limit x{cfg.spike_ratio:.3g}) over steps {low[0]}-{high[0]} and L_CT rose from "
        f"{usual:.3g} to {after:.3g}: training turns unstable (paper Fig. 4)"
    )
    window = [(step, math.exp(v)) for step, v in recent]
    return Finding("spike", trace.blocks[-1].step, ratio, cfg.spike_ratio, message, window)


def drift(trace: Trace, cfg: CollapseConfig) -> Finding | None:
    """Paper Fig. 5: ||grad D||^2 keeps rising, by drift_ratio alone or by confirmed_ratio with a worse score."""
    series = levels(trace, cfg)
    if not series or series[-1].page_hinkley <= cfg.drift_lambda:
        return None
    if series[-1].level <= series[-1].before + math.log(cfg.recovery_ratio):
        return None
    last, chance = series[-1], cfg.drift_noise * noise(trace, cfg)
    alone = max(math.log(cfg.drift_ratio), chance)
    confirmed = max(math.log(cfg.confirmed_ratio), chance / 2)  # two witnesses: each may be half as sure
    if last.rise > alone:
        limit, tail = alone, ""
    elif last.rise > confirmed and score_is_worse(trace, cfg):
        limit, tail = confirmed, f" and the score is over {cfg.score_ratio:.3g} times its best"
    else:
        return None
    low = min(series, key=lambda v: v.level)
    value, threshold = math.exp(last.rise), math.exp(limit)
    message = (
        f"||grad D||^2 drifted from {math.exp(low.level):.3g} to {math.exp(last.level):.3g} "
        f"(x{value:.3g}, limit x{threshold:.3g}) over steps {low.step}-{last.step}{tail}: "
        "the discriminator overfits (paper Fig. 5)"
    )
    window = [(v.step, math.exp(v.level)) for v in series if v.step >= low.step]
    return Finding("drift", last.step, value, threshold, message, window)


def mode_collapse(trace: Trace, cfg: CollapseConfig) -> Finding | None:
    """Paper Fig. 1: the samples become alike; their diversity falls below a share of its own best and stays there."""
    series = diversities(trace)
    window = series[-cfg.diversity_patience :]
    if len(window) < cfg.diversity_patience:
        return None
    best = max(v for _, v in series)
    limit = cfg.diversity_floor * best
    if best <= 0 or any(v >= limit for _, v in window):
        return None
    step, value = window[-1]
    message = (
        f"diversity of the samples fell from {best:.3g} to {value:.3g} (limit {limit:.3g}) and stayed there for "
        f"{len(window)} evaluations up to step {step}: modes are lost (paper Fig. 1)"
    )
    return Finding("mode-collapse", step, value, limit, message, window)


def divergence(trace: Trace, cfg: CollapseConfig) -> Finding | None:
    """A value that is not finite, or L_CT or ||grad D||^2 far above anything training comes back from."""
    if trace.broken is not None:
        bad = trace.broken
        text = f"{bad.name} is {bad.value} at step {bad.step}: the run has diverged"
        return Finding("divergence", bad.step, bad.value, math.inf, text, [(bad.step, bad.value)])
    floor = math.log(cfg.gp_floor)
    gp = [(b.step, math.exp(max(b.log_gp, floor))) for b in trace.blocks if b.log_gp is not None]
    for name, raw, limit in (
        ("L_CT", losses(trace), cfg.divergence_loss_ratio),
        ("||grad D||^2", gp, cfg.divergence_gp_ratio),
    ):
        series = smoothed(raw)
        lowest = min((v for _, v in series), default=0.0)
        if lowest > 0 and series[-1][1] > limit * lowest:
            step, value = series[-1]
            text = (
                f"{name} rose to {value:.3g}, {value / lowest:.3g} times its least (limit x{limit:.3g}) "
                f"by step {step}: the run has diverged"
            )
            return Finding("divergence", step, value / lowest, limit, text, series[-3:])
    return None


SIGNATURES: tuple[Callable[[Trace, CollapseConfig], Finding | None], ...] = (divergence, spike, drift, mode_collapse)


def judge(trace: Trace, cfg: CollapseConfig) -> Finding | None:
    """The first signature that the trace meets, the gravest first."""
    return next((found for rule in SIGNATURES if (found := rule(trace, cfg)) is not None), None)
