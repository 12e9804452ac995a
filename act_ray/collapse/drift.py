"""Drift (paper Fig. 5): L_gp keeps rising slowly; the discriminator overfits."""

import math
from dataclasses import dataclass
from statistics import median

from pydantic import Field

from act_ray.collapse.series import Rising, gp_after_warmup, typical_jump
from act_ray.collapse.trace import Finding, Trace
from act_ray.collapse.worse import WorseThresholds, score_is_worse

_HEAD = 4  # blocks whose median starts the level: a single one would make a low draw the running minimum for good
_CLIP = 3.0  # a block moves the level as if it were at most e^3 = 20 times away, so that one outlier cannot trip it


class DriftThresholds(Rising, WorseThresholds):
    """When a rise is a drift."""

    ema: float = Field(0.25, gt=0, le=1, description="weight of the newest block in the level of log ||grad D||^2")
    drift_delta: float = Field(
        0.15, ge=0, le=1e12, description="Page-Hinkley: rise of log ||grad D||^2 that is tolerated"
    )
    drift_lambda: float = Field(5.0, gt=0, le=1e12, description="Page-Hinkley: accumulated rise that is an alarm")
    drift_ratio: float = Field(7.0, gt=1, le=1e12, description="the level over its running minimum that is an alarm")
    drift_noise: float = Field(
        8.0, ge=0, le=1e12, description="and the least rise of the log level, in standard deviations of its noise"
    )
    confirmed_ratio: float = Field(
        3.0, gt=1, le=1e12, description="enough instead of drift_ratio when the score has become worse as well"
    )


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


def gp_levels(trace: Trace, cfg: DriftThresholds) -> list[Level]:
    """Levels after the warm-up; Page-Hinkley of Page (1954): m_t = sum(x - mean - delta), PH = m_t - min m_t."""
    points = gp_after_warmup(trace, cfg)
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


def level_noise(trace: Trace, cfg: DriftThresholds) -> float:
    """Standard deviation that the level has by chance alone."""
    return typical_jump(gp_after_warmup(trace, cfg)) * math.sqrt(cfg.ema / (2 - cfg.ema))


def drift(trace: Trace, cfg: DriftThresholds) -> Finding | None:
    """||grad D||^2 keeps rising, by drift_ratio alone or by confirmed_ratio with a worse score."""
    series = gp_levels(trace, cfg)
    if not series or series[-1].page_hinkley <= cfg.drift_lambda:
        return None
    if series[-1].level <= series[-1].before + math.log(cfg.recovery_ratio):
        return None
    last, chance = series[-1], cfg.drift_noise * level_noise(trace, cfg)
    alone = max(math.log(cfg.drift_ratio), chance)
    confirmed = max(math.log(cfg.confirmed_ratio), chance / 2)  # two witnesses: each may be half as sure
    if last.rise > alone:
        limit, ratio, tail = alone, cfg.drift_ratio, ""
    elif last.rise > confirmed and score_is_worse(trace, cfg):
        limit, ratio, tail = (
            confirmed,
            cfg.confirmed_ratio,
            f" and the score is over {cfg.score_ratio:.3g} times its best",
        )
    else:
        return None
    low = min(series, key=lambda v: v.level)
    value, threshold = math.exp(last.rise), math.exp(limit)
    noisy = "" if limit <= math.log(ratio) else " for its noise"
    message = (
        f"||grad D||^2 drifted from {math.exp(low.level):.3g} to {math.exp(last.level):.3g} "
        f"(x{value:.3g}, limit x{threshold:.3g}{noisy}) over steps {low.step}-{last.step}{tail}: "
        "the discriminator overfits (paper Fig. 5)"
    )
    window = [(v.step, math.exp(v.level)) for v in series if v.step >= low.step]
    return Finding("drift", last.step, value, threshold, message, window)
