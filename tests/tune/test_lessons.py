"""What a search has taught."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from act_ray.tune.experiment import Experiment
from act_ray.tune.lessons import expected, importances, next_space
from act_ray.tune.space_files import parse_space
from tests.helpers.searches import OPTIONS, scored

RAW: dict[str, Any] = {
    "preset": "digits", "trials": 24, "seed": 1, "set": {"loss.w_mid": 0.1},
    "parameters": {
        "optim.lr_g": {"loguniform": [1e-4, 1e-2]}, "loss.w": {"choice": [0.5, 0.7, 0.9]},
        "train.global_batch": {"choice": [16, 32]}, "loss.gp_interval": {"randint": [1, 60]},
    },
}  # fmt: skip


def known_score(values: dict[str, Any]) -> float:
    """Only lr_g and, less, w matter: best at 1e-3 and .9."""
    return 10 * math.exp(3 * math.log10(values["optim.lr_g"] / 1e-3) ** 2 + (0.9 - values["loss.w"]))


@pytest.fixture
def search(tmp_path: Path) -> Experiment:
    found = Experiment.create(str(tmp_path / "s"), parse_space(RAW, "x"), OPTIONS)
    for plan in found.remaining():
        found.log("trial_started", plan)
        found.log("reported", plan, report=scored(1200, known_score(plan.values)))
        found.log("ended", plan, outcome="completed", reason=None, prune=None)
    return found


def test_the_parameter_that_matters_comes_first_and_one_that_does_not_has_no_share(search: Experiment) -> None:
    found = importances(search)
    assert next(iter(found)) == "optim.lr_g"
    assert found["optim.lr_g"] > 0.6
    assert found["train.global_batch"] < 0.1
    assert sum(found.values()) == pytest.approx(1)


def test_the_next_space_is_a_smaller_one_around_the_best_that_can_be_searched(search: Experiment) -> None:
    text = next_space(search)
    assert text is not None
    space = parse_space(yaml.safe_load(text), "next")
    (low, high) = space.specs["optim.lr_g"][1]
    assert 1e-4 < low < 1e-3 < high < 1e-2
    assert {name: kind for name, (kind, _) in space.specs.items()} == {
        name: kind for name, (kind, _) in search.space.specs.items()
    }
    assert space.file.set == search.space.file.set
    assert 0.9 in space.specs["loss.w"][1]
    assert text.startswith("# Around the 6 best of 24 trials of ")


def test_one_that_waits_counts_with_what_its_trend_promises(search: Experiment) -> None:
    plan = search.plans[0]
    for step, score in ((400, 100.0), (600, 50.0)):
        search.log("reported", plan, report=scored(step, score))
    trial = search.trials[0]
    trial.outcome, trial.reports = None, [r for r in trial.reports if r["step"] < 1200]
    search.log("waiting", plan, reason="waits at 50%")
    value = expected(trial)
    assert value is not None
    assert value < math.log(50)


def test_few_trials_teach_nothing(tmp_path: Path) -> None:
    few = Experiment.create(str(tmp_path / "s"), parse_space({**RAW, "trials": 3}, "x"), OPTIONS)
    for plan in few.remaining():
        few.log("reported", plan, report=scored(1200, 5.0))
    assert (importances(few), next_space(few)) == ({}, None)
