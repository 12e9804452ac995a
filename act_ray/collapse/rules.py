"""All signatures of collapse, the gravest first, and their thresholds as one section of the config.

A new signature is a file like spike.py, with its thresholds and its rule, and a line in each of the two lists here.
docs/collapse.md gives the reason for each threshold.
"""

from collections.abc import Callable
from typing import Self

from act_ray.collapse.divergence import DivergenceThresholds, divergence
from act_ray.collapse.drift import DriftThresholds, drift
from act_ray.collapse.mode_collapse import ModeCollapseThresholds, mode_collapse
from act_ray.collapse.series import Watching
from act_ray.collapse.spike import SpikeThresholds, spike
from act_ray.collapse.steep import SteepThresholds, steep
from act_ray.collapse.trace import Finding, Trace
from act_ray.collapse.worse import WorseThresholds, worse

DETECTOR_VERSION = "3"  # of the rules: change it with every change that could alter a decision


class CollapseConfig(DivergenceThresholds, ModeCollapseThresholds, SpikeThresholds, DriftThresholds, SteepThresholds):
    """When a run shows a signature of collapse, and when it is not worth its remaining budget.

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


Rule = Callable[[Trace, CollapseConfig], Finding | None]
SIGNATURES: dict[str, tuple[Rule, type[Watching]]] = {  # name -> its rule, and the thresholds that are its own
    "divergence": (divergence, DivergenceThresholds),
    "mode-collapse": (mode_collapse, ModeCollapseThresholds),
    "spike": (spike, SpikeThresholds),
    "drift": (drift, DriftThresholds),
    "steep": (steep, SteepThresholds),
    "worse": (worse, WorseThresholds),
}


def first_finding(trace: Trace, cfg: CollapseConfig, certain: bool = False) -> Finding | None:
    """The first signature that the trace meets, the gravest first; of the `certain` ones alone where that is asked."""
    findings = (found for rule, _ in SIGNATURES.values() if (found := rule(trace, cfg)) is not None)
    return next((found for found in findings if found.certain or not certain), None)


def confirmation(trace: Trace, cfg: CollapseConfig, since: int) -> str | None:
    """Why a run that was flagged at step `since` is not worth its remaining budget; None: it may be.

    There has been no new best score for `patience` of the budget, at two evaluations or more. A run that is not scored
    is given up that long after it was flagged.
    """
    scored = [(e.step, e.score) for e in trace.evals if e.score is not None]
    wait = cfg.patience * trace.total_steps
    if not scored:
        last = max([b.step for b in trace.blocks] + [since])
        return f"{last - since:,} steps have passed since" if last - since >= wait else None
    best = min(scored, key=lambda e: e[1])
    later = [step for step, _ in scored if step > best[0]]
    if len(later) < 2 or later[-1] - best[0] < wait:
        return None
    return f"no score since step {best[0]:,} was better than its {best[1]:.4g}"
