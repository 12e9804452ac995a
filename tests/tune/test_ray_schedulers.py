"""ASHA composed with collapse pruning: collapsed trials stay out of the rungs, and rungs survive an interruption."""

from types import SimpleNamespace
from typing import Any

import pytest

from act_ray.metrics.scores import WORST, finite
from act_ray.tune.ray_schedulers import CollapseAware, build_scheduler


def result(images: int, score: float, outcome: str = "") -> dict[str, Any]:
    return {"images": images, "score": score, "outcome": outcome}


def asha() -> CollapseAware:
    return build_scheduler("asha", max_images=900, grace=1 / 9, reduction=3)


def tune_trial(name: str) -> Any:
    return SimpleNamespace(trial_id=name, config={"trial": {"index": ord(name)}})


def report(scheduler: CollapseAware, name: str, *scores: float) -> list[str]:
    """Feed one trial's scores at 100, 200, ... images; what the scheduler said to each."""
    trial = tune_trial(name)
    scheduler.on_trial_add(None, trial)
    return [scheduler.on_trial_result(None, trial, result(100 * i, s)) for i, s in enumerate(scores, 1)]


def test_the_worse_two_thirds_stop_at_a_rung_and_the_sentence_names_it() -> None:
    scheduler = asha()
    assert report(scheduler, "a", 10.0) == ["CONTINUE"]
    assert report(scheduler, "b", 20.0) == ["STOP"]
    assert scheduler.stopped == {ord("b"): "score 20 misses ASHA's cut at 100 images"}
    assert scheduler.rungs == [100, 300, 900]


def test_a_collapsed_trial_enters_no_rung() -> None:
    scheduler = asha()
    report(scheduler, "a", 10.0)
    collapsed = tune_trial("c")
    scheduler.on_trial_add(None, collapsed)
    scheduler.on_trial_complete(None, collapsed, result(100, 0.1, "pruned"))
    assert report(scheduler, "b", 9.0) == ["CONTINUE"]  # against a alone; 0.1 would have stopped it


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), None])
def test_non_finite_scores_reach_schedulers_as_the_worst(bad: float | None) -> None:
    assert finite(bad) == WORST
    scheduler = asha()
    report(scheduler, "a", 10.0)
    assert report(scheduler, "b", finite(bad)) == ["STOP"]
    assert report(scheduler, "c", 9.0) == ["CONTINUE"]


def test_replayed_rungs_decide_like_the_first_time() -> None:
    before, after = asha(), asha()
    report(before, "a", 10.0, 9.0, 8.0)
    after.replay(ord("a"), [result(100, 10.0), result(200, 9.0), result(300, 8.0)])
    for scheduler in (before, after):
        assert report(scheduler, "b", 20.0) == ["STOP"]
        assert report(scheduler, "d", 1.0, 1.0, 9.0) == ["CONTINUE", "CONTINUE", "STOP"]


def test_none_never_stops() -> None:
    scheduler = build_scheduler("none", 900, 0.25, 3)
    assert report(scheduler, "a", 1.0) + report(scheduler, "b", 1e9) == ["CONTINUE", "CONTINUE"]
