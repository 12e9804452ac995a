"""All signatures of collapse, the gravest first, and their thresholds as one section of the config.

A new signature is a file like spike.py, with its thresholds and its rule, and a line in each of the two lists here.
docs/collapse.md gives the reason for each threshold.
"""

from collections.abc import Callable
from typing import Self

from act_ray.collapse.divergence import DivergenceThresholds, divergence
from act_ray.collapse.drift import DriftThresholds, drift
from act_ray.collapse.mode_collapse import ModeCollapseThresholds, mode_collapse
from act_ray.collapse.spike import SpikeThresholds, spike
from act_ray.collapse.trace import Finding, Trace

DETECTOR_VERSION = "1"  # of the rules: change it with every change that could alter a decision


class CollapseConfig(DivergenceThresholds, ModeCollapseThresholds, SpikeThresholds, DriftThresholds):
    """When a run shows a signature of collapse and is not worth its remaining budget.

    Ratios are of ||grad_x D||^2 itself (without w_gp); lengths are in blocks or shares of the planned budget, so
    that nothing depends on how long a run is.
    """

    def beside_penalty(self, gp_weight: float) -> Self:
        """With a penalty, ||grad D||^2 settles near .5 / w_gp: a fifth of that, or of what it is with w_gp = .3, is the
        floor. A run that starts from good samples begins far below, and rises to where every healthy run is.
        """
        if gp_weight == 0:
            return self
        return self.model_copy(update={"gp_floor": max(self.gp_floor, min(0.3, 0.1 / gp_weight))})


SIGNATURES: tuple[Callable[[Trace, CollapseConfig], Finding | None], ...] = (divergence, spike, drift, mode_collapse)


def first_finding(trace: Trace, cfg: CollapseConfig) -> Finding | None:
    """The first signature that the trace meets, the gravest first."""
    return next((found for rule in SIGNATURES if (found := rule(trace, cfg)) is not None), None)
