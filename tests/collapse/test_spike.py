"""A spike of ||grad D||^2 that L_CT follows."""

from act_ray.collapse.spike import spike
from tests.helpers.made_up_traces import CFG, trace_of


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


def test_a_rise_back_to_what_was_before_is_no_spike() -> None:
    """Augmented runs had one when p_aug fell to 0 again, and three of five improved after that."""
    loss = [2.0] * 40 + [2.6] * 5
    for before, spikes in ((20.0, False), (2.0, True)):
        gp = [before] * 25 + [1.0] * 12 + [20.0] * 8
        assert (spike(trace_of(gp, loss), CFG) is not None) == spikes
