"""The best trials again, with new seeds."""

from pathlib import Path
from typing import Any

import pytest

from act_ray.errors import UserError
from act_ray.tune.experiment import Experiment
from act_ray.tune.finalists import finalists, grouped
from act_ray.tune.space_files import parse_space
from act_ray.tune.summary import conclude
from tests.helpers.searches import OPTIONS, scored

RAW: dict[str, Any] = {
    "preset": "digits", "trials": 4, "seed": 2,
    "parameters": {"loss.w": {"uniform": [0.7, 1.0]}, "optim.lr_g": {"choice": [0.001, 0.002]}},
}  # fmt: skip


def searched(folder: Path, scores: list[float | None]) -> Experiment:
    search = Experiment.create(str(folder / "s"), parse_space(RAW, "x"), OPTIONS)
    for plan, score in zip(search.remaining(), scores, strict=True):
        search.log("trial_started", plan)
        search.log("reported", plan, report=scored(1200, score))
        search.log("ended", plan, outcome="completed", reason=None, prune=None)
    return search


def test_the_best_run_again_with_three_new_seeds_and_the_best_mean_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = searched(tmp_path, [30.0, 10.0, None, 20.0])
    final = finalists(search, 2)
    assert final is not None
    plans = final.remaining()
    first, second = search.plans[1], search.plans[3]
    assert [plan.config.train.seed for plan in plans] == [1, 2, 3, 1, 2, 3]
    assert [{k: v for k, v in plan.values.items() if k != "train.seed"} for plan in plans] == (
        [first.values] * 3 + [second.values] * 3
    )
    assert all(plan.config.optim == first.config.optim for plan in plans[:3])
    for plan, score in zip(plans, [10.0, 40.0, 40.0, 22.0, 20.0, 24.0], strict=True):
        final.log("trial_started", plan)
        final.log("reported", plan, report=scored(1200, score))
        final.log("ended", plan, outcome="completed", reason=None, prune=None)
    search.options |= {"budget": "60%", "finalists": 2}  # which are not the finalists' own
    again = finalists(search, 2)  # as after an interruption: the same search, as its log tells it
    assert again is not None
    assert (again.location, again.remaining(), again.options["budget"]) == (final.location, [], None)
    assert [values["loss.w"] for values, _ in grouped(again)] == [second.values["loss.w"], first.values["loss.w"]]
    conclude(again, "FD")
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("Finalists: their best scores with 3 new seeds each, the best mean first.") :]
    rows = [line.split() for line in table if line.startswith("loss.w=")]
    assert [row[-5:] for row in rows] == [["22", "2", "22", "20", "24"], ["30", "17.32", "10", "40", "40"]]


def test_without_a_score_there_are_none(tmp_path: Path) -> None:
    assert finalists(searched(tmp_path, [None] * 4), 2) is None


def test_other_finalists_are_another_search_and_seeds_that_ran_are_not_new(tmp_path: Path) -> None:
    parameters = {"train.seed": {"grid": [1, 2]}, "model.block_out_channels": {"grid": [[16, 32], [32, 32]]}}
    raw = {"preset": "digits", "search": "grid", "parameters": parameters, "set": {"loss.w": 0.9}}
    search = Experiment.create(str(tmp_path / "s"), parse_space(raw, "x"), OPTIONS)
    for plan in search.remaining():
        search.log("reported", plan, report=scored(1200, 10.0 + plan.index))
    one, two = finalists(search, 1), finalists(search, 2)
    assert one is not None
    assert two is not None
    assert (one.location, two.location) == (f"{search.location}/finalists", f"{search.location}/finalists-2")
    assert [plan.config.train.seed for plan in one.remaining()] == [3, 4, 5]
    assert {plan.config.model.block_out_channels for plan in two.remaining()} == {(16, 32), (32, 32)}
    again = finalists(search, 1)
    assert again is not None
    assert again.location == one.location


def test_a_seed_that_the_space_sets_is_replaced_and_read_back(tmp_path: Path) -> None:
    raw = {**RAW, "set": {"train.seed": 7}}
    search = Experiment.create(str(tmp_path / "s"), parse_space(raw, "x"), OPTIONS)
    for plan in search.remaining():
        search.log("reported", plan, report=scored(1200, 10.0))
    final = finalists(search, 1)
    assert final is not None
    assert len(Experiment.read(final.location).remaining()) == 3


def test_points_of_ones_own_are_no_finalists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = {**RAW, "points": [{"loss.w": 0.9, "optim.lr_g": 0.001}, {"loss.w": 0.8, "optim.lr_g": 0.002}]}
    search = Experiment.create(str(tmp_path / "s"), parse_space(raw, "x"), OPTIONS)
    for plan in search.remaining():
        search.log("reported", plan, report=scored(1200, 10.0))
    conclude(search, "FD")
    assert "Finalists" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"points": [{"loss.w": 0.9}]}, "points, number 1: needs a value for each of loss.w, optim.lr_g"),
        ({"points": [{"loss.w": 0.2, "optim.lr_g": 0.1}]}, "points, number 1: loss.w_mid = 0.7: must not exceed"),
        ({"points": [{"loss.w": 0.9, "optim.lr_g": 0.1}], "search": "optuna"}, "points: do not go with search: optuna"),
    ],
)
def test_points_that_cannot_run_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_space({**RAW, **change}, "x")
