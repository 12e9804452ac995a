"""Ray's stopping rules, driven by a trial's index and without Tune, and what Tune is answered."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from act_ray.metrics.scores import WORST
from act_ray.tune.experiment import Experiment
from act_ray.tune.ray_placement import Placement
from act_ray.tune.ray_recorder import Recorder
from act_ray.tune.ray_schedulers import TuneScheduler
from act_ray.tune.schedulers import SCHEDULERS, Plan, Scheduler, Sign, Verdict
from act_ray.tune.space_files import parse_space
from act_ray.tune.standing import fill_scheduler
from tests.helpers.searches import OPTIONS

GO, STOP = Verdict.GO, Verdict.STOP


def build(name: str, **plan: Any) -> Scheduler:
    return SCHEDULERS[name].build(Plan(4, grace=1 / 9, reduction=3, **plan))


def report(scheduler: Scheduler, index: int, *scores: float | None) -> list[Verdict]:
    """Feed one trial's scores at ninths of its steps; what it is to do after each."""
    scheduler.begin(index)
    return [scheduler.report(index, i / 9, score) for i, score in enumerate(scores, 1)]


def test_the_worse_two_thirds_stop_at_a_rung_and_the_sentence_names_it() -> None:
    scheduler = build("asha")
    assert report(scheduler, 0, 10.0) == [GO]
    assert report(scheduler, 1, 20.0) == [STOP]
    assert scheduler.members[1].why == "score 20 misses ASHA's cut at 11%"


def test_a_collapsed_trial_counts_as_the_worst_of_every_rung() -> None:
    """Left out, it would make room for nobody: two good ones of three would be cut for the best."""
    scheduler = build("asha")
    for index in (0, 1):
        scheduler.begin(index)
        scheduler.end(index, collapsed=True)
    assert report(scheduler, 2, 10.0, 10.0, 10.0) == [GO, GO, GO]
    assert report(scheduler, 3, 11.0) == [GO]  # second of four


def test_the_good_scores_that_a_trial_had_before_it_collapsed_cut_no_other() -> None:
    scheduler = build("asha")
    report(scheduler, 0, 10.0)
    scheduler.end(0, collapsed=True)
    assert report(scheduler, 1, 11.0) == [GO]


def test_a_replayed_trial_that_others_later_scores_would_stop_is_not_asked_about_again() -> None:
    scheduler = build("median")
    for index in range(3):
        scheduler.replay(index, [(i / 9, 1.0, False, 0.0) for i in range(1, 8)], "over")
    scheduler.replay(3, [(i / 9, 50.0, False, 0.0) for i in range(1, 4)], "running")
    assert scheduler.next() == 3
    assert report(scheduler, 3, 50.0) == [GO]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), WORST, None])
def test_a_score_that_is_none_counts_as_the_worst(bad: float | None) -> None:
    scheduler = build("asha")
    report(scheduler, 0, 10.0)
    assert report(scheduler, 1, bad) == [STOP]
    assert report(scheduler, 2, 9.0) == [GO]


@pytest.mark.parametrize("name", ["asha", "median"])
def test_replayed_rungs_decide_like_the_first_time(name: str) -> None:
    before, after = build(name), build(name)
    for index in (0, 1, 2):
        report(before, index, 10.0 - index, 9.0 - index, 8.0 - index)
        reports = [(i / 9, 11.0 - i - index, False, 0.0) for i in (1, 2, 3)]
        after.replay(index, reports, before.members[index].state)
    assert report(before, 3, 20.0) == report(after, 3, 20.0) == [STOP]


def test_the_median_rule_stops_what_is_worse_than_most_and_none_stops_nothing() -> None:
    median, none = build("median"), build("none")
    for index, score in enumerate((3.0, 2.0, 1.0)):
        assert report(median, index, score, score) == [GO, GO]
    assert report(median, 3, 20.0) == [STOP]
    assert report(none, 0, 1.0) + report(none, 1, 1e9) == [GO, GO]


# ---------------------------------------------------------------------------------------------- as Tune calls it


def trial(index: int, status: str = "RUNNING", audit: bool = False, action: str = "stop") -> Any:
    settings = {"train": {"total_steps": 100}, "collapse": {"action": action}}
    heeded = audit or action == "stop"
    config = {"trial": {"index": index, "audit": audit, "heeded": heeded, "config": settings}}
    return SimpleNamespace(config=config, status=status)


def result(step: int, score: float, **more: Any) -> dict[str, Any]:
    return {"step": step, "score": score, "seconds": 1.0, "outcome": None, "rescues": 0, **more}


def test_tune_lets_as_many_trials_run_as_fit_and_goes_on_with_those_that_wait() -> None:
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(4)), concurrent=1)
    tuned = [trial(index) for index in range(4)]
    for one in tuned:
        index = scheduler.wants_new()
        assert index == one.config["trial"]["index"]
        scheduler.on_trial_add(None, one)
        assert scheduler.wants_new() is None  # there is room for one
        assert scheduler.on_trial_result(None, one, result(20, 5.0 - index)) == TrialScheduler.CONTINUE
        decided = scheduler.on_trial_result(None, one, result(40, 4.0 - index))
        one.status = "PAUSED" if decided == TrialScheduler.PAUSE else "RUNNING"
        if decided == TrialScheduler.CONTINUE:  # better than the others: it goes on without a wait
            scheduler.on_trial_complete(None, one, result(100, 1.0, outcome="completed"))
    assert [one.status for one in tuned] == ["PAUSED", "PAUSED", "PAUSED", "RUNNING"]
    assert scheduler.choose_trial_to_run(None) is tuned[2]
    assert scheduler.choose_trial_to_run(None) is None


def test_an_interrupted_search_starts_nothing_more() -> None:
    """A process that takes one trial after the other went through all that were left, a step of each."""
    closed = False
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(4)), concurrent=2, closed=lambda: closed)
    one = trial(0)
    scheduler.on_trial_add(None, one)
    assert scheduler.on_trial_result(None, one, result(40, 5.0)) == TrialScheduler.PAUSE
    one.status = "PAUSED"
    assert scheduler.wants_new() == 1
    closed = True
    assert scheduler.wants_new() is None
    scheduler.scheduler.favour(0)
    assert scheduler.choose_trial_to_run(None) is None


def test_a_trial_with_a_signature_goes_on_if_it_promises_more_all_the_same_and_one_that_ended_is_not_judged() -> None:
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(2, budget=2.0)), concurrent=2)
    for index in range(2):
        scheduler.on_trial_add(None, trial(index))
    flagged = {"prune/signature": "drift"}
    confirmed = {**flagged, "prune/confirmed": 35}
    assert scheduler.on_trial_result(None, trial(1), result(30, 5.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, trial(0), result(30, 4.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, trial(0), result(35, 4.0, **flagged)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, trial(0), result(40, 4.0, **confirmed)) == TrialScheduler.CONTINUE
    ended = result(20, 5.0, outcome="pruned", **flagged)
    assert scheduler.on_trial_result(None, trial(1), ended) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, trial(1), ended)
    members = scheduler.scheduler.members
    assert [(member.state, member.sign) for member in members.values()] == [  # type: ignore[attr-defined]
        ("running", Sign.CONFIRMED), ("over", Sign.FLAGGED),
    ]  # fmt: skip


def test_an_audited_trial_goes_on_and_nobody_but_the_log_is_told() -> None:
    scheduler = TuneScheduler(SCHEDULERS["asha"].build(Plan(4, grace=0.25, reduction=2)), concurrent=1)
    audited = trial(0, audit=True)
    scheduler.on_trial_add(None, audited)
    confirmed = {"prune/signature": "drift", "prune/confirmed": 20}
    for step, score in ((20, 90.0), (50, 1.0)):  # it gets better than any other: that must stop none of them
        assert scheduler.on_trial_result(None, audited, result(step, score, **confirmed)) == TrialScheduler.CONTINUE
    assert scheduler.scheduler.members[0].state == "over"
    assert not scheduler.has_room  # its process runs
    scheduler.on_trial_complete(None, audited, result(100, 1.0, outcome="completed", **confirmed))
    assert scheduler.has_room
    scheduler.on_trial_add(None, trial(1))
    assert scheduler.on_trial_result(None, trial(1), result(50, 5.0)) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    ("scheduler", "action", "told"),
    [("freeze-thaw", "stop", "record"), ("asha", "stop", "stop"), ("freeze-thaw", "rescue", "rescue")],
)
def test_a_trial_that_may_wait_is_let_run_and_its_collapse_heeded(
    scheduler: str, action: str, told: str, tmp_path: Path
) -> None:
    raw = {"preset": "digits", "set": {"collapse.action": action}, "scheduler": scheduler, "trials": 1,
           "parameters": {"loss.w": {"choice": [0.7]}}}  # fmt: skip
    search = Experiment.create(str(tmp_path / "s"), parse_space(raw, "x"), OPTIONS)
    recorder = Recorder(search, fill_scheduler(search), Placement({"CPU": 1.0}, 1, gpu=False, threads=1, why=""))
    config = recorder.tune_config(search.remaining()[0])
    assert (config["config"]["collapse"]["action"], config["heeded"]) == (told, True)


def test_a_signature_that_is_only_recorded_changes_nothing() -> None:
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(2)), concurrent=2)
    recorded = trial(0, action="record")
    scheduler.on_trial_add(None, recorded)
    assert scheduler.on_trial_result(None, recorded, result(20, 5.0, **{"prune/signature": "drift"})) == "CONTINUE"


def test_the_last_report_of_a_run_counts() -> None:
    """Tune calls on_trial_result for all but the last."""
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(2)), concurrent=2)
    scheduler.on_trial_add(None, trial(0))
    scheduler.on_trial_complete(None, trial(0), result(100, 3.0, outcome="completed"))
    member = scheduler.scheduler.members[0]
    assert (member.state, member.points) == ("over", [(1.0, 3.0)])


def test_a_trial_that_could_not_save_and_is_tried_again_is_not_let_on() -> None:
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(4)), concurrent=2)
    one = trial(0)
    scheduler.on_trial_add(None, one)
    assert scheduler.on_trial_result(None, one, result(40, 5.0)) == TrialScheduler.PAUSE
    scheduler.on_trial_add(None, one)
    assert scheduler.on_trial_result(None, one, result(45, 5.0)) == TrialScheduler.PAUSE


def test_a_rescued_trial_counts_as_flagged_though_it_shows_nothing_now() -> None:
    scheduler = TuneScheduler(SCHEDULERS["freeze-thaw"].build(Plan(4)), 2)
    one = trial(0, action="rescue")
    one.config["trial"]["heeded"] = True
    scheduler.on_trial_add(None, one)
    assert scheduler.on_trial_result(None, one, result(10, 5.0, rescues=1)) == TrialScheduler.CONTINUE
    assert scheduler.scheduler.members[0].sign is Sign.FLAGGED  # type: ignore[attr-defined]
