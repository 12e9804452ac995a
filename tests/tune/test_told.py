"""What Optuna is told of trials: of this search, of earlier ones, with one objective or two."""

from pathlib import Path
from typing import Any

import pytest

from act_ray.errors import UserError
from act_ray.metrics.scores import WORST
from act_ray.tune.experiment import Experiment
from act_ray.tune.ray_schedulers import TuneScheduler
from act_ray.tune.ray_searchers import OptunaSpace
from act_ray.tune.schedulers import SCHEDULERS
from act_ray.tune.space_files import parse_space
from act_ray.tune.summary import conclude
from act_ray.tune.told import earlier
from tests.helpers.searches import DRIFT, OPTIONS, scored
from tests.tune.test_lessons import RAW, known_score

ONE: dict[str, Any] = {
    "preset": "digits", "trials": 12, "seed": 1, "search": "optuna", "set": {"loss.w_mid": 0.1, "loss.w": 0.7},
    "parameters": {"optim.lr_g": {"loguniform": [1e-4, 1e-2]}, "loss.gp_interval": {"randint": [1, 60]}},
}  # fmt: skip


def searched(folder: Path, raw: dict[str, Any], options: dict[str, Any] | None = None) -> Experiment:
    """A search whose trials all came to their end."""
    found = Experiment.create(str(folder), parse_space(raw, "x"), OPTIONS | (options or {}))
    for plan in found.remaining():
        found.log("trial_started", plan)
        values = {"loss.w": 0.7, "optim.lr_g": 1e-3, **plan.values}
        found.log("reported", plan, report=scored(1200, known_score(values)))
        found.log("ended", plan, outcome="completed", reason=None, prune=None)
    return found


def optuna_over(experiment: Experiment) -> OptunaSpace:
    plan = experiment.space.plan()
    scheduler = TuneScheduler(SCHEDULERS[experiment.space.file.scheduler].build(plan), 2)
    return OptunaSpace(experiment, scheduler, lambda plan: {})


def test_a_search_begins_where_an_earlier_one_was_good(tmp_path: Path) -> None:
    """Which had searched more parameters: its trials with this space's w count, the others do not."""
    before = searched(tmp_path / "before", {**RAW, "trials": 40})
    fitting = [
        t
        for t in before.trials.values()
        if t.plan.values["loss.w"] == 0.7 and t.plan.values["train.global_batch"] == 32
    ]
    values = [found for found, _ in earlier(parse_space(ONE, "x"), [before.location])]
    assert values == [{name: t.plan.values[name] for name in ONE["parameters"]} for t in fitting]
    new = Experiment.create(str(tmp_path / "new"), parse_space(ONE, "x"), OPTIONS | {"from": [before.location]})
    searcher = optuna_over(new)
    assert len(searcher.inner._ot_study.trials) == len(fitting)
    assert searcher.inner._ot_study.best_value == min(t.best_score for t in fitting if t.best_score)


def test_where_there_is_nothing_to_learn_the_reason_is_said(tmp_path: Path) -> None:
    space = parse_space({**ONE, "set": {**ONE["set"], "loss.gp_weight": 9.0}}, "x")
    before = searched(tmp_path / "before", RAW)
    with pytest.raises(UserError, match=r"nothing to learn from; trial \S+ is not one of this space: loss.\S+ = 0"):
        list(earlier(space, [before.location]))
    with pytest.raises(UserError, match=r"--from .*/befor: no such search; did you mean .*before"):
        list(earlier(space, [str(tmp_path / "befor")]))


def test_a_collapse_is_told_as_the_worst_and_a_waiting_trial_as_its_trend(tmp_path: Path) -> None:
    found = Experiment.create(str(tmp_path / "s"), parse_space(ONE, "x"), OPTIONS)
    reports = [scored(300, 80.0), scored(600, 40.0)]
    for index, last in enumerate(("pruned", "waiting", "rescued", "confirmed")):
        plan = found.plan(index, {"optim.lr_g": 0.001, "loss.gp_interval": 10 + index})
        found.log("trial_started", plan)
        for report in reports:
            prune = DRIFT if last == "confirmed" else None
            found.log("reported", plan, report=report | {"rescues": int(last == "rescued"), "prune": prune})
        if last in ("waiting", "confirmed"):
            found.log("waiting", plan, reason="waits")
        else:
            outcome = "completed" if last == "rescued" else "pruned"
            found.log("ended", plan, outcome=outcome, reason=None, prune=DRIFT if outcome == "pruned" else None)
    told = [trial.values for trial in optuna_over(found).inner._ot_study.trials]
    assert told == [
        [WORST],
        [pytest.approx(28.28, abs=0.1)],
        [WORST],
        [pytest.approx(28.28, abs=0.1)],
    ]  # 56.6, the middle of both, halved per doubling


def test_with_two_objectives_the_front_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = {**ONE, "objectives": ["score", "compute"], "scheduler": "none"}
    found = Experiment.create(str(tmp_path / "s"), parse_space(raw, "x"), OPTIONS)
    for index, (score, seconds) in enumerate([(50.0, 90.0), (40.0, 200.0), (60.0, 100.0), (70.0, 30.0)]):
        plan = found.plan(index, {"optim.lr_g": 0.001, "loss.gp_interval": 10 + index})
        found.log("trial_started", plan)
        found.log("reported", plan, report=scored(1200, score) | {"seconds": seconds})
        found.log("ended", plan, outcome="completed", reason=None, prune=None)
    searcher = optuna_over(found)
    assert [t.values for t in searcher.inner._ot_study.trials][1] == [40.0, 200.0]
    assert searcher.inner.suggest("another")["optim.lr_g"] > 0
    conclude(found, "FD")
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("no other trial is both better and faster than one of these:")
    names = [plan.name for plan in found.plans.values()]
    assert lines[at + 1 : at + 4] == [
        f"  {names[1]}: score 40, 0:03:20 of training",
        f"  {names[0]}: score 50, 0:01:30 of training",
        f"  {names[3]}: score 70, 0:00:30 of training",
    ]


def test_two_objectives_need_a_scheduler_that_does_not_look_at_one() -> None:
    with pytest.raises(
        UserError, match=r"objectives = \['score', 'compute'\]: needs search: optuna and scheduler: none"
    ):
        parse_space({**ONE, "objectives": ["score", "compute"]}, "x")


def test_steered_trials_and_listed_values_are_told_apart(tmp_path: Path) -> None:
    fixed = {**ONE["set"], "collapse.action": "steer"}
    steered = searched(tmp_path / "steered", {**ONE, "search": "random", "set": fixed})
    with pytest.raises(UserError, match=r"collapse\.action = steer, not stop"):
        list(earlier(parse_space(ONE, "x"), [steered.location]))
    widths = {"model.block_out_channels": {"choice": [[16, 32], [32, 64]]}}
    before = searched(tmp_path / "widths", {"preset": "digits", "trials": 6, "set": ONE["set"], "parameters": widths})
    space = parse_space({"preset": "digits", "search": "optuna", "set": ONE["set"], "parameters": widths}, "x")
    assert len(list(earlier(space, [before.location]))) == 6


def test_values_that_the_space_does_not_draw_are_left_out(tmp_path: Path) -> None:
    """The upper end of whole numbers, and a word where there are numbers."""
    before = searched(
        tmp_path / "a", {**ONE, "search": "random", "parameters": {"loss.gp_interval": {"choice": [2, 3]}}}
    )
    narrow = {**ONE, "parameters": {"loss.gp_interval": {"randint": [1, 3]}}}
    assert {v["loss.gp_interval"] for v, _ in earlier(parse_space(narrow, "x"), [before.location])} == {2}
    auto = searched(tmp_path / "b", {**ONE, "search": "random", "set": {**ONE["set"], "augment.tau": "auto"}})
    tau = {**ONE, "parameters": {"augment.tau": {"loguniform": [0.1, 1.0]}}}
    with pytest.raises(UserError, match=r"augment\.tau = auto"):
        list(earlier(parse_space(tau, "x"), [auto.location]))
