"""The finite number that a search minimises, and its name."""

import math

from act_ray.config import EvalConfig

WORST = 1e9  # the score of a run without a finite one: NaN and inf break schedulers and searchers


def finite_or_worst(score: float | None) -> float:
    """The score, or WORST when there is none or it is not a finite number."""
    return score if score is not None and math.isfinite(score) and score < WORST else WORST


def metric_name(cfg: EvalConfig) -> str:
    """What the score is, for tables: metric, features and sample count."""
    kind = "FID" if cfg.features == "inception" else "FD"
    return f"{kind} ({cfg.features} features, {cfg.samples} samples)"
