"""Spike (paper Fig. 4): L_gp rises drastically within few blocks, and L_CT turns unstable at or after it."""

import math
from statistics import median

from pydantic import Field

from act_ray.collapse.series import Rising, gp_after_warmup, losses, smoothed
from act_ray.collapse.trace import Finding, Trace


class SpikeThresholds(Rising):
    """When a rise is a spike."""

    spike_ratio: float = Field(
        4.0, gt=1, le=1e12, description="rise of ||grad D||^2 (median of three blocks) that is drastic"
    )
    spike_blocks: int = Field(8, ge=2, le=10**6, description="blocks within which a spike rises and L_CT answers")
    spike_loss_ratio: float = Field(
        1.15, gt=1, le=1e12, description="L_CT over its median of the blocks before: unstable"
    )


def spike(trace: Trace, cfg: SpikeThresholds) -> Finding | None:
    """||grad D||^2 rises over spike_ratio within spike_blocks, and L_CT then exceeds spike_loss_ratio of its usual.

    Back to where it was before is no spike: p_aug that rises and falls, or more noise levels, make a dip.
    """
    gp, loss = smoothed(gp_after_warmup(trace, cfg)), smoothed(losses(trace))
    gan = bool(trace.blocks) and not any(block.loss_ct is not None for block in trace.blocks)  # w_mid = 1: no L_CT
    if not gan and len(loss) < 2 * cfg.spike_blocks:
        return None
    reach = cfg.spike_blocks * trace.block_steps
    recent = [(step, v) for step, v in gp if step > trace.blocks[-1].step - reach]
    if len(recent) < 2:
        return None
    low = min(recent, key=lambda p: p[1])
    high = max((p for p in recent if p[0] >= low[0]), key=lambda p: p[1])
    ratio = math.exp(high[1] - low[1])
    before = max(v for step, v in gp if step <= low[0])
    if ratio <= cfg.spike_ratio or high[1] <= before + math.log(cfg.recovery_ratio):
        return None
    answer = ""
    if not gan:
        usual = median(v for _, v in loss[-2 * cfg.spike_blocks : -cfg.spike_blocks])
        after = max((v for step, v in loss if step >= high[0]), default=0.0)
        if after <= cfg.spike_loss_ratio * usual:
            return None
        answer = f" and L_CT rose from {usual:.3g} to {after:.3g}"
    message = (
        f"||grad D||^2 spiked from {math.exp(low[1]):.3g} to {math.exp(high[1]):.3g} (x{ratio:.3g}, limit "
        f"x{cfg.spike_ratio:.3g}) over steps {low[0]}-{high[0]}{answer}: training turns unstable (paper Fig. 4)"
    )
    window = [(step, math.exp(v)) for step, v in recent]
    return Finding("spike", trace.blocks[-1].step, ratio, cfg.spike_ratio, message, window)
