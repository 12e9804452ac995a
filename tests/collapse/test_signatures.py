"""The four signatures on made-up traces: each fires on its own picture and on nothing near it."""

import math
import random
from collections.abc import Sequence

import pytest

from act_ray.collapse.divergence import divergence
from act_ray.collapse.drift import drift, gp_levels, score_is_worse
from act_ray.collapse.mode_collapse import mode_collapse
from act_ray.collapse.rules import CollapseConfig, first_finding
from act_ray.collapse.spike import spike
from act_ray.collapse.trace import Block, Evaluation, NotFinite, Trace

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


def test_empty_trace_shows_nothing() -> None:
    assert first_finding(Trace(100, 16.0), CFG) is None
    assert gp_levels(Trace(100, 16.0), CFG) == []


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1e4])
def test_constant_penalty_shows_nothing(value: float) -> None:
    assert ever(trace_of([value] * 75)) is None


@pytest.mark.parametrize("sigma", [0.3, 0.6])
def test_noise_alone_shows_nothing(sigma: float) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        assert ever(trace_of([rng.lognormvariate(0, sigma) for _ in range(75)])) is None


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.9])
def test_mild_drift_is_not_a_reason_even_with_a_worse_score(factor: float) -> None:
    trace = trace_of(rising(factor))
    trace.evals = evaluated([0.9] * 6, [40, 20, 20, 43, 43, 43]).evals
    assert ever(trace) is None


@pytest.mark.parametrize("factor", [30.0, 1000.0])
def test_strong_drift_is_found_on_its_own(factor: float) -> None:
    found = drift(trace_of(rising(factor)), CFG)
    assert found is not None
    assert found.value > found.threshold == pytest.approx(CFG.drift_ratio)
    assert found.window[-1][1] / found.window[0][1] == pytest.approx(found.value)
    assert "the discriminator overfits" in found.message


def test_middling_drift_needs_a_worse_score() -> None:
    trace = trace_of([1.0] * 25 + [4.0] * 50)
    assert drift(trace, CFG) is None
    trace.evals = evaluated([0.9] * 4, [60, 20, 31, 32]).evals
    found = drift(trace, CFG)
    assert found is not None
    assert "score" in found.message


def test_drift_within_the_warm_up_is_how_runs_begin() -> None:
    assert ever(trace_of([10 ** (i / 3 - 3) for i in range(9)] + [1.0] * 66)) is None


@pytest.mark.parametrize("outlier", [0.0, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("at", [2, 9, 10, 14, 40, 74])
def test_single_outlier_shows_nothing(outlier: float, at: int) -> None:
    gp = [1.0] * 75
    gp[at] = outlier
    assert ever(trace_of(gp)) is None


def test_score_must_stay_worse_and_be_a_distance() -> None:
    assert score_is_worse(evaluated([1] * 4, [50, 20, 31, 32]), CFG)
    assert not score_is_worse(evaluated([1] * 4, [50, 20, 31, 25]), CFG)
    assert not score_is_worse(evaluated([1] * 4, [50, -20, 31, 32]), CFG)
    assert not score_is_worse(evaluated([1] * 2, [20, 99]), CFG)


def test_spike_needs_both_the_rise_and_an_unstable_loss() -> None:
    gp, loss = [1.0] * 40 + [20.0] * 5, [2.0] * 42 + [2.6] * 3
    found = spike(trace_of(gp, loss), CFG)
    assert found is not None
    assert (found.signature, round(found.value)) == ("spike", 20)
    assert found.step == 4500
    assert spike(trace_of(gp), CFG) is None
    assert spike(trace_of([1.0] * 45, loss), CFG) is None


def test_loss_that_rises_before_the_penalty_is_no_spike() -> None:
    assert spike(trace_of([1.0] * 40 + [20.0] * 5, [2.0] * 34 + [2.6] * 3 + [2.0] * 8), CFG) is None


def test_mode_collapse_is_a_lasting_fall_below_a_share_of_its_own_best() -> None:
    assert mode_collapse(evaluated([0.4, 0.5, 0.45, 0.42]), CFG) is None  # low all along: slow, not collapsed
    assert mode_collapse(evaluated([0.9, 0.5, 0.9, 0.5]), CFG) is None
    found = mode_collapse(evaluated([0.9, 0.8, 0.5, 0.4]), CFG)
    assert found is not None
    assert found.window == [(900, 0.5), (1200, 0.4)]
    assert mode_collapse(evaluated([0.0, 0.0, 0.0]), CFG) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_divergence(value: float) -> None:
    found = first_finding(Trace(100, 16.0, not_finite=NotFinite(3, "L_CT", value)), CFG)
    assert found is not None
    assert (found.signature, found.step) == ("divergence", 3)


def test_loss_blown_up_is_divergence_even_in_the_warm_up() -> None:
    assert ever(trace_of([1.0] * 9, [2.0] * 6 + [50.0] * 3)) == "divergence"
    assert ever(trace_of([1.0] * 9, [2.0] * 6 + [50.0] * 1 + [2.0] * 2)) is None
    assert ever(trace_of([1.0] * 4 + [1e7] * 3)) == "divergence"
    assert divergence(trace_of([1.0] * 9, [0.0] * 6 + [2.0] * 3), CFG) is None  # no ratio over 0


def test_blocks_without_a_measurement_are_passed_over() -> None:
    assert ever(trace_of([None] * 75)) is None
    sparse: list[float | None] = [g if i % 2 == 0 else None for i, g in enumerate(rising(1000))]
    assert ever(trace_of(sparse)) == "drift"
