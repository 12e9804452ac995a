"""Trials that wait with their checkpoints, and the most promising that goes on."""

import math

import pytest

from act_ray.errors import UserError
from act_ray.tune.budget import parse_budget
from act_ray.tune.freeze_thaw import FreezeThaw
from act_ray.tune.schedulers import Plan, Sign, State, Verdict, promise

GO, WAIT = Verdict.GO, Verdict.WAIT


def run(
    scheduler: FreezeThaw, scores: dict[int, float], signs: dict[int, dict[float, Sign]] | None = None
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


def test_all_begin_and_the_most_promising_go_on_until_the_budget_is_spent() -> None:
    scheduler = FreezeThaw(Plan(10, every=0.1))
    done = run(scheduler, {i: 10.0 + i for i in range(10)})
    ends = furthest(done)
    assert [share for share in ends.values() if share == 1.0] == [1.0] * 4
    assert all(ends[i] == 1.0 for i in range(4))
    assert [ends[i] for i in range(4, 10)] == [0.5, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert sum(ends.values()) == pytest.approx(6.0)  # .6 of ten trials
    assert len(done) == len(set(done))  # nothing runs twice
    assert scheduler.finished
    assert scheduler.members[7].why == "waits at 30%, until others have begun"


def test_who_falls_behind_waits_and_who_waits_catches_up() -> None:
    """A rung would have cut the second: it is worse when it waits, and better than what the first comes to."""
    scheduler = FreezeThaw(Plan(2, budget=1.6))
    for index, score in ((0, 10.0), (1, 12.0)):
        scheduler.begin(index)
        for tenth in (1, 2, 3):
            verdict = scheduler.report(index, tenth / 10, score)
        assert verdict is WAIT
    assert scheduler.next() == 0
    scheduler.begin(0)
    assert scheduler.report(0, 0.4, 15.0) is GO  # one bad score is none: the level is the median of three
    assert scheduler.report(0, 0.5, 15.0) is WAIT
    assert scheduler.members[0].why == "waits at 50%, behind 1 that promise more"
    assert scheduler.next() == 1


def test_a_signature_makes_a_trial_count_as_worse_and_throws_none_away() -> None:
    signs = {0: {0.1: Sign.FLAGGED}, 1: {0.1: Sign.CONFIRMED}}
    scores = {0: 10.0, 1: 10.1, 2: 10.5, 3: 12.0}  # the first two count as 11 and 11.1
    done = run(FreezeThaw(Plan(4, budget=4.0)), scores, signs)
    assert [index for index, share in done if share == 1.0] == [2, 0, 1, 3]


@pytest.mark.parametrize(("budget", "begun"), [(1.0, 1), (2.0, 3), (3.0, 5)])
def test_with_a_small_budget_fewer_begin_so_that_some_come_to_their_end(budget: float, begun: int) -> None:
    done = furthest(run(FreezeThaw(Plan(8, budget=budget)), {i: 10.0 + i for i in range(8)}))
    assert max(done.values()) == 1.0
    assert len(done) == begun
    assert sum(done.values()) <= budget + 1e-9


def test_a_budget_under_a_first_slice_still_begins_one_trial() -> None:
    assert furthest(run(FreezeThaw(Plan(8, budget=0.1)), dict.fromkeys(range(8), 10.0))) == {0: 0.3}


@pytest.mark.parametrize("evaluations", [2, 3, 4, 6, 20])
def test_slices_end_where_trials_are_scored_and_the_best_come_to_their_end(evaluations: int) -> None:
    scheduler = FreezeThaw(Plan(8, every=1 / evaluations))
    while (index := scheduler.next()) is not None:
        scheduler.begin(index)
        for step in range(round(evaluations * scheduler.members[index].share) + 1, evaluations + 1):
            if scheduler.report(index, step / evaluations, 10.0 + index) is WAIT:
                break
            if step == evaluations:
                scheduler.end(index)
    ended = [index for index, member in scheduler.members.items() if member.share == 1]
    assert ended[:1] == [0]
    spent = sum(member.share for member in scheduler.members.values())
    assert 0.6 * 8 - 1 / 2 - 1e-9 <= spent <= 0.6 * 8 + 1e-9


def test_a_trial_goes_on_only_if_enough_is_left_for_those_that_promise_more() -> None:
    """With as many workers as trials all would run side by side, and the budget be spent before any came to its end."""
    scheduler = FreezeThaw(Plan(4))
    for index in range(4):
        scheduler.begin(index)
        scheduler.report(index, 0.2, 10.0 + index)
    assert [scheduler.report(index, 0.3, 10.0 + index) for index in (3, 0, 1, 2)] == [WAIT, GO, GO, WAIT]
    assert scheduler.next() is None  # 2.4 - 1.4 are left, and .6 of them meant for each of the two that run
    assert [scheduler.report(1, share, 30.0) for share in (0.4, 0.5)] == [GO, WAIT]
    assert scheduler.next() == 2


def test_who_would_be_the_next_to_go_on_does_not_wait() -> None:
    """A pause costs a checkpoint and a process's start."""
    scheduler = FreezeThaw(Plan(2, budget=2.0))
    scheduler.begin(0)
    assert scheduler.report(0, 0.3, 5.0) is WAIT  # the other one has yet to begin
    scheduler.begin(1)
    assert scheduler.report(1, 0.3, 9.0) is WAIT
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
    scheduler = FreezeThaw(Plan(4, hours=1.0))
    scheduler.begin(0)
    assert scheduler.report(0, 0.1, 5.0, seconds=3599.0) is GO
    assert scheduler.report(0, 0.2, 5.0, seconds=3600.0) is WAIT
    assert scheduler.members[0].why == "waits at 20%: the budget is spent"
    assert scheduler.finished


def test_a_resumed_search_decides_as_if_it_had_not_been_interrupted() -> None:
    scores = {i: 10.0 + (5 * i) % 8 for i in range(8)}
    whole = FreezeThaw(Plan(8))
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
        before, after = done[:cut], FreezeThaw(Plan(8))
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


def test_where_a_trial_stands_is_told_with_what_others_promise() -> None:
    scheduler = FreezeThaw(Plan(3))
    run(scheduler, {0: 10.0, 1: 12.0, 2: 14.0}, {2: {0.1: Sign.FLAGGED}})
    promised, counted, others = scheduler.standing(2)
    own = promise(scheduler.members[2].points)
    assert promised == f"at 30% of its steps its trend promised {math.exp(own):.4g} at the end"
    assert counted == "it counted as 1.1 times that, for a signature of collapse"
    assert others.startswith("2 others went further, and promise 1")


def test_a_trial_that_somebody_asks_for_goes_on_before_all_others_and_to_its_end() -> None:
    scheduler = FreezeThaw(Plan(4))
    run(scheduler, {i: 10.0 + i for i in range(4)})
    last = max(i for i, trial in scheduler.members.items() if trial.state == "waiting")
    scheduler.favour(last)
    assert not scheduler.finished
    assert furthest(run(scheduler, {i: 10.0 + i for i in range(4)})) == {last: 1.0}
    assert scheduler.finished
    scheduler.favour(0)  # it is over
    assert scheduler.finished


def test_who_runs_gives_way_at_the_end_of_its_slice_to_who_was_asked_for() -> None:
    scheduler = FreezeThaw(Plan(3, budget=3.0, every=0.1))
    for index in range(3):
        scheduler.begin(index)
        assert scheduler.report(index, 0.3, 10.0 + index) is WAIT
    scheduler.begin(0)
    scheduler.favour(2)
    assert scheduler.report(0, 0.4, 9.0) is WAIT
    assert scheduler.next() == 2
    scheduler.begin(2)
    scheduler.favour(1)
    scheduler.begin(1)  # it goes on just now: a request that comes then is not lost
    assert [scheduler.report(1, share, 50.0) for share in (0.4, 0.9)] == [GO, GO]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_interruption_within_a_slice_changes_nothing(cut: int) -> None:
    """A trial that was judged at its next score, and not at the end of its slice, shifted all slices after that."""
    scores = {i: 10.0 + (5 * i) % 4 for i in range(4)}

    def steps(scheduler: FreezeThaw, most: int = 999) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        while (index := scheduler.next()) is not None and len(done) < most:
            scheduler.begin(index)
            for step in range(round(40 * scheduler.members[index].share) + 1, 41):
                done.append((index, step))
                verdict = scheduler.report(index, step / 40, scores[index] * (1 + 0.1 * math.sin(7 * step + index)))
                if step == 40:
                    scheduler.end(index)
                if verdict is WAIT or len(done) == most:
                    break
        return done

    plan = Plan(4, every=1 / 40)
    whole, before = steps(FreezeThaw(plan)), steps(scheduler := FreezeThaw(plan), cut)
    after = FreezeThaw(plan)
    for index, member in scheduler.members.items():
        after.replay(index, [(share, score, Sign.NONE, 0.0) for share, score in member.points], member.state)
    assert before + steps(after) == whole
