"""All signatures together: none fires on what is healthy."""

import random

import pytest

from act_ray.collapse.drift import gp_levels
from act_ray.collapse.rules import first_finding
from act_ray.collapse.trace import Trace
from tests.helpers.made_up_traces import CFG, ever, rising, trace_of


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


@pytest.mark.parametrize("outlier", [0.0, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("at", [2, 9, 10, 14, 40, 74])
def test_single_outlier_shows_nothing(outlier: float, at: int) -> None:
    gp = [1.0] * 75
    gp[at] = outlier
    assert ever(trace_of(gp)) is None


def test_blocks_without_a_measurement_are_passed_over() -> None:
    assert ever(trace_of([None] * 75)) is None
    sparse: list[float | None] = [g if i % 2 == 0 else None for i, g in enumerate(rising(1000))]
    assert ever(trace_of(sparse)) == "drift"
