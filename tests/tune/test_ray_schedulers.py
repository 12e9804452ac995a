"""ASHA composed with collapse pruning: collapsed trials stay out of the rungs, and rungs survive an interruption.

The schedulers are driven as a replay of recorded runs drives them, by a trial's index and without Tune; only the
end of a trial comes as Tune tells of it.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from act_ray.metrics.scores import WORST
from act_ray.tune.ray_schedulers import CollapseAware
from act_ray.tune.schedulers import SCHEDULERS, Budget


def result(images: int, score: float | None, outcome: str | None = None) -> dict[str, Any]:
    return {"images": images, "score": score, "outcome": outcome}


def asha() -> CollapseAware:
    return SCHEDULERS["asha"].build(Budget(images=900, grace=1 / 9, reduction=3))


def report(scheduler: CollapseAware, index: int, *scores: float | None) -> list[bool]:
    """Feed one trial's scores at 100, 200, ... images; whether the scheduler stopped it at each."""
    scheduler.add(index)
    return [scheduler.report(index, result(100 * i, score)) for i, score in enumerate(scores, 1)]


def test_the_worse_two_thirds_stop_at_a_rung_and_the_sentence_names_it() -> None:
    scheduler = asha()
    assert report(scheduler, 0, 10.0) == [False]
    assert report(scheduler, 1, 20.0) == [True]
    assert scheduler.stopped == {1: "score 20 misses ASHA's cut at 100 images"}
    assert scheduler.rungs == [100, 300, 900]


def test_a_collapsed_trial_enters_no_rung() -> None:
    scheduler = asha()
    report(scheduler, 0, 10.0)
    collapsed: Any = SimpleNamespace(trial_id="c", config={"trial": {"index": 2}})
    scheduler.on_trial_add(None, collapsed)
    scheduler.on_trial_complete(None, collapsed, result(100, 0.1, "pruned"))
    assert report(scheduler, 1, 9.0) == [False]  # against trial 0 alone; 0.1 would have stopped it


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), WORST, None])
def test_a_score_that_is_none_counts_as_the_worst(bad: float | None) -> None:
    scheduler = asha()
    report(scheduler, 0, 10.0)
    assert report(scheduler, 1, bad) == [True]
    assert report(scheduler, 2, 9.0) == [False]


def test_replayed_rungs_decide_like_the_first_time() -> None:
    before, after = asha(), asha()
    report(before, 0, 10.0, 9.0, 8.0)
    after.replay(0, [result(100, 10.0), result(200, 9.0), result(300, 8.0)])
    for scheduler in (before, after):
        assert report(scheduler, 1, 20.0) == [True]
        assert report(scheduler, 3, 1.0, 1.0, 9.0) == [False, False, True]


def test_none_never_stops() -> None:
    scheduler = SCHEDULERS["none"].build(Budget(900, 0.25, 3))
    assert report(scheduler, 0, 1.0) + report(scheduler, 1, 1e9) == [False, False]
