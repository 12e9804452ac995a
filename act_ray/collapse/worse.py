"""Worse (paper Fig. 5): the score has turned, and ||grad D||^2 need not tell: few images, known by heart."""

from pydantic import Field

from act_ray.collapse.series import Watching
from act_ray.collapse.trace import Finding, Trace


class WorseThresholds(Watching):
    """When a score has turned."""

    score_ratio: float = Field(
        1.5, gt=1, le=1e12, description="a score (lower is better) this far over its best is worse"
    )
    score_patience: int = Field(2, ge=1, le=10**6, description="evaluations in a row the score must be worse")


def worse(trace: Trace, cfg: WorseThresholds) -> Finding | None:
    """Each of the last score_patience evaluations scored over score_ratio times the best up to then."""
    if not score_is_worse(trace, cfg):
        return None
    scores = [(e.step, e.score) for e in trace.evals if e.score is not None]
    at, best = min(scores, key=lambda e: e[1])
    window = [(step, score) for step, score in scores if step >= at]
    step, last = window[-1]
    message = (
        f"the score went from {best:.4g} at step {at} to {last:.4g} (x{last / best:.3g}, limit x{cfg.score_ratio:.3g}) "
        f"and was that far off at {cfg.score_patience} evaluations in a row, up to step {step} (paper Fig. 5)"
    )
    return Finding("worse", step, last / best, cfg.score_ratio, message, window)


def score_is_worse(trace: Trace, cfg: WorseThresholds) -> bool:
    """Whether each of the last evaluations scored more than score_ratio times the best up to then."""
    scores = [e.score for e in trace.evals if e.score is not None]
    if len(scores) <= cfg.score_patience or min(scores) <= 0:  # no ratio of scores that are not distances
        return False
    last = range(len(scores) - cfg.score_patience, len(scores))
    return all(scores[i] > cfg.score_ratio * min(scores[: i + 1]) for i in last)
