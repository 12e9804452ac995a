"""Divergence: a value that is not finite, or far above anything that training comes back from."""

import math

from pydantic import Field

from act_ray.collapse.series import Watching, losses, smoothed
from act_ray.collapse.trace import Finding, Trace


class DivergenceThresholds(Watching):
    """When a run has blown up."""

    divergence_loss_ratio: float = Field(10.0, gt=1, le=1e12, description="L_CT over its running minimum: blown up")
    divergence_gp_ratio: float = Field(
        1e5, gt=1, le=1e12, description="||grad D||^2 over its running minimum: blown up"
    )


def divergence(trace: Trace, cfg: DivergenceThresholds) -> Finding | None:
    """A value that is not finite, or L_CT or ||grad D||^2 over a multiple of its least."""
    if trace.not_finite is not None:
        bad = trace.not_finite
        text = f"{bad.name} is {bad.value} at step {bad.step}: the run has diverged"
        return Finding("divergence", bad.step, bad.value, math.inf, text, [(bad.step, bad.value)], certain=True)
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
            return Finding("divergence", step, value / lowest, limit, text, series[-3:], certain=name == "L_CT")
    return None
