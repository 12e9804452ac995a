"""A slow drift of ||grad D||^2."""

import pytest

from act_ray.collapse.drift import drift, score_is_worse
from tests.helpers.made_up_traces import CFG, evaluated, ever, rising, trace_of


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.9])
def test_mild_drift_is_not_a_reason_even_with_a_worse_score(factor: float) -> None:
    trace = trace_of(rising(factor))
    trace.evals = evaluated([0.9] * 6, [40, 20, 20, 43, 43, 43]).evals
    assert ever(trace) == "worse"  # and never drift


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


def test_score_must_stay_worse_and_be_a_distance() -> None:
    assert score_is_worse(evaluated([1] * 4, [50, 20, 31, 32]), CFG)
    assert not score_is_worse(evaluated([1] * 4, [50, 20, 31, 25]), CFG)
    assert not score_is_worse(evaluated([1] * 4, [50, -20, 31, 32]), CFG)
    assert not score_is_worse(evaluated([1] * 2, [20, 99]), CFG)
