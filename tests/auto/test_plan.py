"""The arithmetic of the plan: what is planned fits into the time, whatever the machine."""

import dataclasses

import pytest

from act_ray.auto.plan import (
    RAY,
    SEEDS,
    SHARE,
    STEPS_LEAST,
    STEPS_MOST,
    Costs,
    Plan,
    fit_repeats,
    least_hours,
    make_plan,
    measured_pace,
    measured_startup,
    search_budget,
)
from act_ray.auto.steps import EVALUATED, fit_samples
from act_ray.errors import UserError
from act_ray.tune.budget import parse_budget


@pytest.mark.parametrize("at_once", [1, 2, 8, 64])
@pytest.mark.parametrize("hours", [0.5, 8.0, 500.0])
@pytest.mark.parametrize("step", [0.02, 1.0])
def test_the_parts_fill_the_time_and_no_more(at_once: int, hours: float, step: float) -> None:
    whole, used = hours * 3600, 60.0
    plan = make_plan(whole - used, whole, Costs(step, score=10 * step, memory=1), at_once)
    total = used + RAY + plan.search + plan.repeats + plan.rest
    assert total <= whole
    assert total > 0.9 * whole or plan.steps == STEPS_MOST  # there is nothing more to learn
    assert plan.trials >= 4
    assert plan.steps % plan.every == 0
    assert plan.search - 20 >= SHARE * plan.trials * plan.steps * step / at_once  # with room for scores
    assert plan.repeats - 20 >= plan.steps * step * -(-SEEDS // at_once)


def test_what_is_too_short_names_the_least_that_is_taken() -> None:
    costs = Costs(step=0.1, score=1.0, memory=1)
    with pytest.raises(UserError, match=r"--hours 0\.02: too few .* give at least ([0-9.]+), and another --out"):
        make_plan(42.0, 72.0, costs, 2)
    for used, at_once, step in ((30.0, 2, 0.1), (300.0, 1, 4.0), (5.0, 8, 0.001), (30.0, 2, 900.0)):
        costs = Costs(step, score=step * 20, memory=1)
        least = least_hours(used, costs, at_once)
        assert make_plan(least * 3600 - used, least * 3600, costs, at_once).steps >= STEPS_LEAST
        with pytest.raises(UserError):
            make_plan(0.7 * least * 3600 - used, 0.7 * least * 3600, costs, at_once)


def test_few_hours_take_fewer_trials_rather_than_short_ones() -> None:
    costs = Costs(step=0.1, score=0.5, memory=1)
    assert make_plan(310.0, 360.0, costs, 2).trials < make_plan(3500.0, 3600.0, costs, 2).trials == 12


PLAN = Plan(trials=12, steps=1000, every=50, at_once=2, search=500.0, repeats=300.0, rest=60.0, training=0.8)


@pytest.mark.parametrize(
    ("seconds", "finished", "count"),
    [(320.0, 12, 1), (400.0, 12, 2), (2000.0, 12, 3), (2000.0, 1, 1), (100.0, 12, 1), (30.0, 12, 0), (2000.0, 0, 0)],
)
def test_as_many_finalists_as_can_have_the_steps_of_the_search(seconds: float, finished: int, count: int) -> None:
    found, steps = fit_repeats(seconds, 20.0, 0.1, PLAN, finished)
    assert found == count
    assert steps * 0.1 * -(-SEEDS * count // 2) <= max(0.0, seconds - 20)
    assert steps >= PLAN.steps or count < 2


def test_the_pace_leaves_out_the_time_that_a_trial_waited() -> None:
    def reported(trial: int, time: float, step: int) -> dict[str, object]:
        return {"event": "reported", "trial": trial, "time": time, "report": {"step": step}}

    rows = [
        {"event": "search", "time": 0.0, "state": "running"}, {"event": "trial_started", "trial": 0, "time": 7.5},
        reported(0, 10.0, 50), reported(1, 11.0, 50), reported(0, 20.0, 100),
        {"event": "waiting", "trial": 0, "time": 20.0}, {"event": "trial_started", "trial": 0, "time": 400.0},
        reported(0, 410.0, 150), reported(0, 421.0, 200),
    ]  # fmt: skip
    assert measured_pace(rows) == pytest.approx(0.21)
    assert measured_pace(rows[:4]) is None
    assert measured_startup(rows) == 7.5  # from the search's beginning, not of the trial that goes on
    assert measured_startup(rows[:1]) is None


def test_a_search_that_goes_on_has_what_it_trained_besides() -> None:
    first, again = (parse_budget(search_budget(500.0, PLAN, spent)) for spent in (0.0, 360.0))
    assert first.unit == "hours"
    assert again.amount - first.amount == pytest.approx(0.1, abs=1e-5)
    assert parse_budget(search_budget(0.0, PLAN)).amount > 0


def test_the_evaluation_is_shortened_and_never_left_out() -> None:
    assert fit_samples(3600.0, 1.0, 1000, 500) == EVALUATED
    short = fit_samples(40.0, 2.0, 1000, 500)
    assert short % 500 == 0
    assert 1000 < short < EVALUATED
    assert 2.0 * 3 * (short / 1000) ** 2 <= 40.0  # the distances between samples, at one and two evaluations
    assert fit_samples(-5.0, 2.0, 1000, 500) == fit_samples(5.0, 20.0, 1000, 500) == 1000


def test_the_plan_is_kept_as_plain_data() -> None:
    assert Plan(**dataclasses.asdict(PLAN)) == PLAN
