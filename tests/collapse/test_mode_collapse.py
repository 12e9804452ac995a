"""Samples that lose their diversity."""

from act_ray.collapse.mode_collapse import mode_collapse
from tests.helpers.made_up_traces import CFG, evaluated


def test_mode_collapse_is_a_lasting_fall_below_a_share_of_its_own_best() -> None:
    assert mode_collapse(evaluated([0.4, 0.5, 0.45, 0.42]), CFG) is None  # low all along: slow, not collapsed
    assert mode_collapse(evaluated([0.9, 0.5, 0.9, 0.5]), CFG) is None
    found = mode_collapse(evaluated([0.9, 0.8, 0.5, 0.4]), CFG)
    assert found is not None
    assert not found.certain  # scores have to confirm it: a run has come back from .35, and was best after that
    assert found.window == [(900, 0.5), (1200, 0.4)]
    assert mode_collapse(evaluated([0.0, 0.0, 0.0]), CFG) is None
