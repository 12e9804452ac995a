"""Values that are not finite or blow up."""

import math

import pytest

from act_ray.collapse.divergence import divergence
from act_ray.collapse.rules import first_finding
from act_ray.collapse.trace import NotFinite, Trace
from tests.helpers.made_up_traces import CFG, ever, trace_of


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
