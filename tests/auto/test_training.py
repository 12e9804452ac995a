"""Which run is the winner."""

from dataclasses import replace
from pathlib import Path

import pytest

from act_ray.auto import training
from act_ray.auto.journal import Journal
from act_ray.auto.plan import Plan
from act_ray.auto.training import chosen, open_repeats, search
from act_ray.errors import UserError
from act_ray.tune.experiment import Experiment
from act_ray.tune.space_files import parse_space
from tests.helpers.searches import OPTIONS, scored

RAW = {"preset": "digits", "trials": 3, "parameters": {"optim.lr_g": {"loguniform": [1e-3, 4e-3]}}}
PLAN = Plan(trials=3, steps=1200, every=60, at_once=2, search=1.0, repeats=1.0, rest=1.0, training=1.0)


def searched(folder: Path, scores: list[float | None]) -> Experiment:
    search = Experiment.create(str(folder / "search"), parse_space(RAW, "x"), OPTIONS)
    report(search, scores)
    return search


def report(search: Experiment, scores: list[float | None]) -> None:
    for plan, score in zip(search.remaining(), scores, strict=True):
        search.log("trial_started", plan)
        search.log("reported", plan, report=scored(600, score))


@pytest.mark.parametrize(("own", "where"), [(30.0, "/search/finalists/trials/004"), (11.0, "/search/trials/001")])
def test_the_settings_of_the_best_mean_and_the_best_run_of_them(own: float, where: str, tmp_path: Path) -> None:
    search = searched(tmp_path, [10.0, own, 50.0])
    final = open_repeats(search, PLAN, finalists=2, steps=800)
    assert final is not None
    assert {(p.config.train.total_steps, p.config.eval.every) for p in final.remaining()} == {(800, 40)}
    again = open_repeats(search, PLAN, finalists=2, steps=800)  # as the same command opens it after a kill
    assert again is not None
    assert again.location == final.location
    report(final, [9.0, 60.0, 60.0, 25.0, 20.0, 24.0])
    found = chosen(search, final)
    assert found["settings"] == search.plans[1].values
    assert found["scores"] == [25.0, 20.0, 24.0]
    assert where in found["winner"]
    assert found["of_the_search"] == (own == 11.0)


def test_a_search_for_which_no_time_is_left_is_a_mistake(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "data", 0.01)
    with pytest.raises(UserError, match=r"--hours 0\.01: the time was over before a trial began; give more"):
        search(tmp_path, parse_space(RAW, "x"), replace(PLAN, rest=100.0), journal)


def test_a_search_that_lost_its_time_gets_that_of_the_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials that are there did half of what they need; run_until is Ray's part, and here takes no time."""
    searched(tmp_path, [10.0, 30.0, 50.0])
    asked = list[float]()
    monkeypatch.setattr(training, "run_until", lambda experiment, seconds: asked.append(seconds))
    monkeypatch.setattr(training, "show", lambda experiment: None)
    journal = Journal(tmp_path, "data", 1.0)
    with journal.at_work():
        for steps, calls in ((1200, 1), (1201, 2)):
            asked.clear()
            plan = replace(PLAN, steps=steps, repeats=1000.0)
            assert search(tmp_path, parse_space(RAW, "x"), plan, journal)["furthest"] == 600
            assert len(asked) == calls
    assert asked[1] - asked[0] == pytest.approx(1000, abs=60)
    assert len(journal.notes) == 1


def test_a_repeat_that_the_clock_stopped_spoils_no_mean(tmp_path: Path) -> None:
    search = searched(tmp_path, [30.0, 31.0, 50.0])
    final = open_repeats(search, PLAN, finalists=2, steps=800)
    assert final is not None
    plans = final.remaining()
    report(final, [20.0, 21.0, 900.0, 25.0, 26.0, 27.0])
    for plan in plans[:2] + plans[3:]:
        final.log("ended", plan, outcome="completed", reason=None, prune=None)
    found = chosen(search, final)
    assert (found["settings"], found["scores"]) == (search.plans[0].values, [20.0, 21.0])


def test_without_repeats_it_is_the_searchs_best_and_without_scores_none(tmp_path: Path) -> None:
    search = searched(tmp_path / "a", [30.0, None, 20.0])
    final = open_repeats(search, PLAN, finalists=1, steps=800)
    for repeats in (None, final):  # of which none has a score
        found = chosen(search, repeats)
        assert "/search/trials/002" in found["winner"]
        assert (found["scores"], found["best"]) == ([], 20.0)
    assert chosen(searched(tmp_path / "b", [None] * 3), None) == {"winner": None}
