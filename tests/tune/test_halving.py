"""Successive halving that waits."""

import math

import pytest

from act_ray.errors import UserError
from act_ray.tune.budget import parse_budget
from act_ray.tune.halving import Halving
from act_ray.tune.schedulers import Plan, Sign, State, Verdict, promise

GO, WAIT = Verdict.GO, Verdict.WAIT


def run(
    scheduler: Halving, scores: dict[int, float], signs: dict[int, dict[float, Sign]] | None = None
) -> list[tuple[int, float]]:
    """One trial at a time, scored at tenths, with scores / share; (trial, share) of all that was reported."""
    done: list[tuple[int, float]] = []
    while (index := scheduler.next()) is not None:
        scheduler.begin(index)
        tenths = round(10 * scheduler.members[index].share)
        for tenth in range(tenths + 1, 11):
            share = tenth / 10
            done.append((index, share))
            shown = max((s for at, s in (signs or {}).get(index, {}).items() if share >= at), default=Sign.NONE)
            verdict = scheduler.report(index, share, scores[index] / share, shown)
            if tenth == 10:
                scheduler.end(index)
            if verdict is WAIT:
                break
    return done


def furthest(done: list[tuple[int, float]]) -> dict[int, float]:
    return dict(sorted(done))


def test_half_goes_on_from_the_first_rung_and_a_quarter_to_the_end() -> None:
    scheduler = Halving(Plan(8))
    done = run(scheduler, {i: 10.0 + i for i in range(8)})
    assert furthest(done) == {0: 1.0, 1: 1.0, 2: 0.6, 3: 0.6, 4: 0.4, 5: 0.4, 6: 0.4, 7: 0.4}
    assert len(done) == len(set(done))  # nothing runs twice
    assert scheduler.finished
    assert scheduler.members[7].why == "waits at 40%, where 4 of 8 go on"


def test_a_trial_goes_on_at_once_where_nothing_can_overtake_it() -> None:
    scheduler = Halving(Plan(4))
    for index, score, verdict in ((0, 4.0, WAIT), (1, 3.0, WAIT), (2, 2.0, GO), (3, 1.0, GO)):
        scheduler.begin(index)
        assert scheduler.report(index, 0.4, score) is verdict  # the third is the second best at worst


def test_a_flagged_trial_waits_behind_all_others_and_what_it_leaves_goes_to_the_next() -> None:
    scores, flagged = {i: 10.0 + i for i in range(8)}, {i: {0.1: Sign.FLAGGED} for i in range(3)}
    done = run(Halving(Plan(8)), scores, flagged)
    assert furthest(done) == {0: 0.1, 1: 0.1, 2: 0.1, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0, 7: 0.4}
    everything = run(Halving(Plan(8, budget=8.0)), scores, flagged)
    assert set(furthest(everything).values()) == {1.0}
    order = [index for index, share in everything if share == 1.0]
    assert order[-3:] == [0, 1, 2]


def test_a_confirmed_collapse_waits_behind_all_and_is_not_thrown_away() -> None:
    signs = {0: {0.1: Sign.FLAGGED, 0.3: Sign.CONFIRMED}, 1: {0.1: Sign.FLAGGED}, 2: {0.2: Sign.CONFIRMED}}
    scheduler = Halving(Plan(4, budget=4.0))
    done = run(scheduler, {i: 10.0 + i for i in range(4)}, signs)
    assert set(furthest(done).values()) == {1.0}
    assert [index for index, share in done if share == 1.0] == [3, 1, 0, 2]
    assert [share for index, share in done if index == 0][:3] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("budget", "begun"), [(1.0, 1), (2.0, 2), (3.0, 4)])
def test_with_a_small_budget_fewer_begin_so_that_some_come_to_their_end(budget: float, begun: int) -> None:
    done = furthest(run(Halving(Plan(8, budget=budget)), {i: 10.0 + i for i in range(8)}))
    assert max(done.values()) == 1.0
    assert len(done) >= begun
    assert sum(done.values()) <= budget + 0.4 + 1e-9  # what a trial began, it brings to its rung


@pytest.mark.parametrize("evaluations", [2, 3, 4, 6, 20])
def test_rungs_are_where_trials_are_scored_so_that_half_and_a_quarter_go_on(evaluations: int) -> None:
    """A budget of rungs at .35 and .6 would be spent before any trial that is scored at .5 and .67 came to its end."""
    scheduler = Halving(Plan(8, every=1 / evaluations))
    while (index := scheduler.next()) is not None:
        scheduler.begin(index)
        for step in range(round(evaluations * scheduler.members[index].share) + 1, evaluations + 1):
            if scheduler.report(index, step / evaluations, 10.0 + index) is WAIT:
                break
            if step == evaluations:
                scheduler.end(index)
    ended = [index for index, member in scheduler.members.items() if member.share == 1]
    assert ended[:2] == [0, 1]
    assert len(ended) <= 4
    assert sum(member.share for member in scheduler.members.values()) == pytest.approx(scheduler.budget)


def test_what_is_left_goes_to_as_many_at_a_time_as_there_is_room_for() -> None:
    scheduler = Halving(Plan(8, budget=8.0))
    for index in range(8):
        scheduler.begin(index)
        assert scheduler.report(index, 0.1, 5.0, Sign.FLAGGED) is WAIT
    started = []
    for _ in range(4):
        index = scheduler.next()
        assert index is not None
        scheduler.begin(index)
        started.append(index)
    assert len(set(started)) == 4


def test_who_would_be_the_next_to_go_on_does_not_wait() -> None:
    """A pause costs a checkpoint and a process's start."""
    scheduler = Halving(Plan(2, budget=2.0))
    scheduler.begin(0)
    assert scheduler.report(0, 0.4, 5.0) is WAIT  # the other one has yet to begin
    scheduler.begin(1)
    assert scheduler.report(1, 0.4, 9.0) is WAIT
    assert scheduler.next() == 0
    scheduler.begin(0)
    assert scheduler.report(0, 0.6, 4.0) is GO
    assert scheduler.members[0].state == "running"
    scheduler.report(0, 1.0, 3.0)
    scheduler.end(0)
    assert scheduler.next() == 1
    scheduler.begin(1)
    assert [scheduler.report(1, share, 8.0) for share in (0.6, 0.8)] == [GO, GO]


def test_hours_end_a_search_and_a_running_trial_waits() -> None:
    scheduler = Halving(Plan(4, hours=1.0))
    scheduler.begin(0)
    assert scheduler.report(0, 0.1, 5.0, seconds=3599.0) is GO
    assert scheduler.report(0, 0.2, 5.0, seconds=3600.0) is WAIT
    assert scheduler.members[0].why == "waits at 20%: the budget is spent"
    assert scheduler.finished


def test_a_resumed_search_decides_as_if_it_had_not_been_interrupted() -> None:
    scores = {i: 10.0 + (5 * i) % 8 for i in range(8)}
    whole = Halving(Plan(8))
    states: list[dict[int, State]] = []
    judge = whole.judge

    def remember(index: int, sign: Sign) -> Verdict:
        verdict = judge(index, sign)
        now = {i: member.state for i, member in whole.members.items()}
        states.append({**now, index: "waiting" if verdict is WAIT else "running"})
        return verdict

    whole.judge = remember  # type: ignore[method-assign]
    done = [point for point in run(whole, scores) if point[1] < 1]
    assert len(done) == len(states)
    for cut, state in enumerate(states, 1):
        before, after = done[:cut], Halving(Plan(8))
        for index in {index for index, _ in before}:
            shares = [share for i, share in before if i == index] + [1.0] * (state[index] == "over")
            after.replay(index, [(share, scores[index] / share, Sign.NONE, 0.0) for share in shares], state[index])
        rest = [point for point in run(after, scores) if point[1] < 1]
        assert sorted(before + rest) == sorted(done), cut


def test_the_trend_of_a_score_is_its_promise() -> None:
    power = [(share / 10, 3.0 * (share / 10) ** -0.7) for share in range(1, 6)]
    level = sorted(math.log(score) for _, score in power[-3:])[1]
    assert promise(power) == pytest.approx(level + 0.7 * math.log(0.5))
    rising = [(0.1, 1.0), (0.2, 2.0), (0.3, 4.0)]
    assert promise(rising) == pytest.approx(math.log(2.0))
    assert promise([(0.1, 5.0)]) == pytest.approx(math.log(5.0))
    assert promise([]) == promise([(0.1, 1e9)]) == math.inf


@pytest.mark.parametrize(
    ("text", "trials"),
    [("60%", 6.0), ("5 trials", 5.0), ("1 trial", 1.0), ("20,000 steps", 20.0), ("1e6images", 10.0), ("8 hours", None)],
)
def test_a_budget_in_its_unit(text: str, trials: float | None) -> None:
    assert parse_budget(text).trials(10, steps=1000, images=100_000) == trials


@pytest.mark.parametrize("text", ["", "60", "5 days", "-3 trials", "0 steps", "1.2.3 hours"])
def test_a_budget_that_is_none_says_what_one_is(text: str) -> None:
    with pytest.raises(UserError, match="give a number and a unit, such as '60%'"):
        parse_budget(text)


def test_where_a_trial_stands_is_told_without_those_that_do_not_count() -> None:
    scheduler = Halving(Plan(4))
    for index, score, sign in (
        (0, 1.0, Sign.FLAGGED),
        (1, 1.5, Sign.CONFIRMED),
        (2, 20.0, Sign.NONE),
        (3, 30.0, Sign.NONE),
    ):
        scheduler.begin(index)
        scheduler.report(index, 0.4, score, sign)
    assert scheduler.standing(2) == ["at 35% of its steps its trend promised 20 at the end: 1. of 2, of which 2 go on"]
    assert scheduler.standing(0)[0].startswith("it has shown a signature of collapse, and waits behind all others")


def test_a_trial_that_somebody_asks_for_goes_on_before_all_others_and_to_its_end() -> None:
    scheduler = Halving(Plan(4))
    run(scheduler, {i: 10.0 + i for i in range(4)})
    last = max(i for i, trial in scheduler.members.items() if trial.state == "waiting")
    scheduler.favour(last)
    assert not scheduler.finished
    assert furthest(run(scheduler, {i: 10.0 + i for i in range(4)})) == {last: 1.0}
    assert scheduler.finished
    scheduler.favour(0)  # it does not wait
    assert scheduler.finished
