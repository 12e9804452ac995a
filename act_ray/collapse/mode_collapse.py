"""Mode collapse (paper Fig. 1): the samples become alike."""

from pydantic import Field

from act_ray.collapse.series import Watching, diversities
from act_ray.collapse.trace import Finding, Trace


class ModeCollapseThresholds(Watching):
    """When modes are lost."""

    diversity_floor: float = Field(
        0.75, gt=0, lt=1, description="diversity of the samples below this share of its own best: modes are lost"
    )
    diversity_patience: int = Field(2, ge=1, le=10**6, description="evaluations in a row below the floor")


def mode_collapse(trace: Trace, cfg: ModeCollapseThresholds) -> Finding | None:
    """The diversity of the samples falls below a share of its own best and stays there."""
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
