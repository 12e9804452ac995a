"""The series of a trace that several signatures look at, and the settings that they share."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from act_ray.collapse.trace import Trace, Window

_DIFF_SD = 0.954  # median of |a - b| for a, b ~ N(0, 1)


class Watching(BaseModel):
    """How a run is watched; each signature's file adds its own thresholds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(
        True, description="watch for collapse; a value that is not finite ends a run whatever is set here"
    )
    action: Literal["stop", "record", "rescue", "steer"] = Field(
        "stop",
        description="stop a run whose collapse is confirmed; only record it and let it go on; rescue: go back and "
        "change one thing; steer: record it, and hold ||grad D||^2 in a corridor by moving w_gp (steer.*)",
    )
    rescues: int = Field(2, ge=1, le=10**6, description="action = rescue: how often")
    rescue_order: tuple[Literal["gp_weight", "lr_d", "w", "p_aug"], ...] = Field(
        ("gp_weight", "lr_d", "w", "p_aug"),
        min_length=1,
        description="and what is changed: w_gp x 3 or more, lr_d / 2, w x .8, augmentation from a lower tau on",
    )
    monitor_interval: int = Field(
        16,
        ge=1,
        le=10**6,
        description="steps between measurements of ||grad D||^2 where the penalty itself is not computed",
    )
    patience: float = Field(
        0.25, gt=0, lt=1, description="share of the budget without a new best score that confirms a signature"
    )
    blocks: int = Field(75, ge=10, le=1000, description="blocks the planned budget is cut into; a rule sees medians")
    warmup: float = Field(0.12, ge=0, lt=1, description="share of the budget before the drift and spike rules begin")
    gp_floor: float = Field(
        0.01,
        gt=0,
        le=1e12,
        description="||grad D||^2 below this counts as this: a flat discriminator is no base for a ratio",
    )

    @property
    def ends(self) -> bool:
        """Whether a run does not go on past a confirmed collapse; if it does, a flag changes nothing in a search."""
        return self.action in ("stop", "rescue")


class Rising(Watching):
    """When ||grad D||^2 rises, and does not only come back."""

    recovery_ratio: float = Field(
        1.5,
        ge=1,
        le=1e12,
        description="a drift and a spike end this far above what was before their lowest: less ends a dip",
    )


def gp_after_warmup(trace: Trace, cfg: Watching) -> Window:
    """(step, log ||grad D||^2) of the blocks after the warm-up."""
    start, floor = cfg.warmup * trace.total_steps, math.log(cfg.gp_floor)
    return [
        (b.step, max(b.log_gp, floor))
        for b in trace.blocks
        if b.log_gp is not None and b.step - trace.block_steps >= start
    ]


def typical_jump(points: Window) -> float:
    """Standard deviation of one block's value by chance alone; differences of neighbours are not misled by a drift."""
    jumps = [abs(b - a) for (_, a), (_, b) in pairwise(points)]
    return median(jumps) / _DIFF_SD if jumps else 0.0


def smoothed(points: Sequence[tuple[int, float]]) -> Window:
    """Median of each value with the two before it; empty for fewer than three."""
    return [(points[i][0], median(v for _, v in points[i - 2 : i + 1])) for i in range(2, len(points))]


def losses(trace: Trace) -> Window:
    """(step, block median of L_CT)."""
    return [(b.step, b.loss_ct) for b in trace.blocks if b.loss_ct is not None]


def diversities(trace: Trace) -> Window:
    """(step, diversity) of the evaluations that measured it."""
    return [(e.step, e.diversity) for e in trace.evals if e.diversity is not None]
