"""Traces made up by hand, for the rules of the signatures."""

import math
from collections.abc import Sequence

from act_ray.collapse.rules import CollapseConfig, first_finding
from act_ray.collapse.trace import Block, Evaluation, Trace

CFG = CollapseConfig()


def trace_of(gp: Sequence[float | None], loss: Sequence[float] | None = None) -> Trace:
    """75 blocks of 100 steps."""
    trace = Trace(7500, 100.0)
    loss = [2.0] * len(gp) if loss is None else loss
    trace.blocks = [
        Block(100 * (i + 1), None if g is None else math.log(max(g, CFG.gp_floor)), c)
        for i, (g, c) in enumerate(zip(gp, loss, strict=True))
    ]
    return trace


def evaluated(diversity: Sequence[float], score: Sequence[float] | None = None) -> Trace:
    trace = Trace(7500, 100.0)
    for i, d in enumerate(diversity):
        trace.evals.append(Evaluation(300 * (i + 1), d, None if score is None else score[i]))
    return trace


def rising(factor: float, n: int = 75) -> list[float]:
    return [factor ** (i / (n - 1)) for i in range(n)]


def ever(trace: Trace, cfg: CollapseConfig = CFG) -> str | None:
    """The first signature met when the blocks come one by one."""
    for n in range(len(trace.blocks) + 1):
        found = first_finding(Trace(trace.total_steps, trace.block_steps, trace.blocks[:n], trace.evals), cfg)
        if found:
            return found.signature
    return None
