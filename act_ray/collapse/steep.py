"""Steep (paper Fig. 5): L_gp stays far above where every healthy run settles, whatever it rose from."""

import math
from statistics import median

from pydantic import Field

from act_ray.collapse.series import Watching, gp_after_warmup
from act_ray.collapse.trace import Finding, Trace

_LEAST = 3  # blocks


class SteepThresholds(Watching):
    """When L_gp is too high."""

    steep_level: float = Field(1.25, gt=0, le=1e12, description="median of L_gp = w_gp ||grad D||^2 that is too high")
    steep_share: float = Field(0.1, gt=0, lt=1, description="share of the budget that it is the median of")


def steep(trace: Trace, cfg: SteepThresholds) -> Finding | None:
    """The median of L_gp over steep_share of the budget exceeds steep_level; silent without a penalty."""
    points = gp_after_warmup(trace, cfg)
    if not points or trace.gp_weight == 0:
        return None
    recent = [
        (s, trace.gp_weight * math.exp(v)) for s, v in points if s > points[-1][0] - cfg.steep_share * trace.total_steps
    ]
    if (
        len(recent) < _LEAST
        or recent[0][0] - trace.block_steps > points[-1][0] - 0.8 * cfg.steep_share * trace.total_steps
    ):
        return None
    value = median(v for _, v in recent)
    if value <= cfg.steep_level:
        return None
    message = (
        f"L_gp stayed at {value:.3g} (limit {cfg.steep_level:.3g}) over steps {recent[0][0]}-{recent[-1][0]}: "
        "the discriminator overfits (paper Fig. 5)"
    )
    return Finding("steep", recent[-1][0], value, cfg.steep_level, message, recent)
