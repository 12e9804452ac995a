"""`python -m act_ray.tune` with mistakes: one line, exit code 2, before Ray starts and before a folder is made."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from act_ray.cli import run
from act_ray.tune import __main__ as verb
from act_ray.tune.__main__ import command
from act_ray.tune.experiment import Experiment
from act_ray.tune.space_files import load_space, parse_space
from tests.helpers.command import Ended
from tests.helpers.searches import made_up

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "search_spaces/digitz.yaml"], "did you mean 'search_spaces/digits.yaml'?"),
        (["--space", "search_spaces/cifar10.yaml", "--data", "digits"], "needs 3 channels"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--set", "loss.v=1"], "loss.v: no such setting; did you mean 'loss.w'?"),
        (["--set", "loss.w=0.5"], "both searched and set"),
        (["--space", "cifar1O"], "--space cifar1O: no file, and no shipped search space; did you mean 'cifar10'?"),
        (["--scheduler", "asya"], "'asya' is not one of 'freeze-thaw', 'asha', 'median', 'none'"),
        (["--data", "digits", "--set", "data.path=digits"], "--data digits: given twice"),
        (["--resume", "nothing"], "no such search"),
        (["--resume", "nothing", "--dry-run"], "--dry-run: not with --resume"),
        (["--resume", "nothing", "--trials", "3"], "--resume NAME"),
        (["--trials", "0"], "--trials"),
        (["--set", "distill.teacher=nowhere"], "nowhere: no such file or folder"),
        (["--set", "model.init=nowhere"], "nowhere: no such file or folder"),
        (
            [
                "--space",
                "search_spaces/table4_other_discriminators.yaml",
                "--data",
                "digits",
                "--set",
                "loss.distance=l2",
                "--set",
                "eval.features=classifier",
            ],
            "feature_weights is not set",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        run(command, ["--storage", str(tmp_path / "runs"), *arguments])
    printed = capsys.readouterr().err
    assert ended.value.code == 2, printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert said in printed
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/experiment.yaml"))


def test_a_search_has_one_network_with_model_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for parameters, said in (
        ("{eval.features: {choice: [auto, classifier]}}", "parameters.eval.features: scores in different features"),
        ("{model.init: {choice: [a, b]}}", "parameters.model.init: its network is the same for all trials"),
        ("{model.init: {choice: [a]}, model.layers_per_block: {choice: [1, 2]}}", "parameters.model.init"),
    ):
        Path("space.yaml").write_text(f"preset: digits\nparameters: {parameters}\n")
        with pytest.raises(SystemExit) as ended:
            run(command, ["--space", "space.yaml"])
        assert (ended.value.code, said in capsys.readouterr().err) == (2, True)


def test_a_dry_run_shows_the_space_and_its_trials_without_ray(tmp_path: Path) -> None:
    """In a process where Ray cannot be imported."""
    code = "import sys; sys.modules['ray'] = None; from act_ray.cli import main; main()"
    arguments = ["tune", "--dry-run", "--space", "digits", "--trials", "3", "--set", "optim.beta1=0.5"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    shown = yaml.safe_load(ended.stdout)
    assert shown["set"]["optim.beta1"] == 0.5
    assert parse_space(shown, "stdout").draw() == load_space("digits", {"trials": 3}).draw()
    assert ended.stdout.count("# trial 00") == 3
    assert "# at most 1,500 steps and 48,000 images over 3 trials, a score every 25 steps" in ended.stdout
    assert (
        "# freeze-thaw: all begin, with 25% of their steps; the most promising go on until 60% of all steps are spent"
        in ended.stdout
    )


def test_what_optuna_may_choose_is_counted_at_its_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = {"train.global_batch": {"choice": [16, 64]}, "train.total_steps": {"randint": [50, 101]}}
    Path("space.yaml").write_text(yaml.safe_dump({"preset": "digits", "parameters": parameters, "search": "optuna"}))
    shown = Ended(capfd, "tune", "--dry-run", "--space", "space.yaml", "--trials", "3").succeeded()
    assert "# at most 300 steps and 19,200 images over 3 trials" in shown


def test_a_recipe_is_that_of_all_trials(capfd: pytest.CaptureFixture[str]) -> None:
    shown = Ended(capfd, "tune", "--dry-run", "--space", "seeds", "--recipe", "authors").succeeded()
    assert "recipe: authors" in shown
    said = Ended(capfd, "tune", "--dry-run", "--space", "seeds", "--recipe", "author").mistake()
    assert said.endswith("--recipe author: no such recipe; did you mean 'authors'?")


def test_a_resumed_search_keeps_its_options_but_those_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"workers_per_trial": 2, "concurrent": None, "max_failures": 5}
    Experiment.create(str(tmp_path / "s"), load_space("digits"), options)
    seen: list[Experiment] = []
    monkeypatch.setattr(verb, "run_search", lambda experiment, *_: seen.append(experiment) or 0)
    with pytest.raises(SystemExit):
        run(command, ["--storage", str(tmp_path), "--resume", "s", "--max-failures", "1"])
    assert seen[0].options == {**options, "max_failures": 1}


def test_whoever_does_not_wait_is_told_how_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "search_on_ray", interrupted)
    ended = Ended(capfd, "tune", "--storage", tmp_path, "--name", "s")
    assert ended.code == 130
    assert ended.err == (f"error: interrupted; go on with: python -m act_ray.tune --resume s --storage {tmp_path}\n")


def test_an_interruption_before_the_first_trial_speaks_of_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from act_ray.tune.ray_recorder import Recorder

    options = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}
    experiment: Any = Experiment.create(str(tmp_path / "s"), load_space("digits"), options)
    scheduler: Any = None
    recorder = Recorder(experiment, scheduler, scheduler)
    recorder.interrupt()
    assert capsys.readouterr().out == "interrupted: no trial runs yet (Ctrl-C again gives up)\n"
    recorder.running[0] = experiment.remaining()[0]
    recorder.interrupt()
    assert "interrupted: 1 trial saves its state" in capsys.readouterr().out


def test_failed_trials_are_tried_again_when_asked(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    search.log("ended", search.plans[4], outcome="failed", reason="a node was lost", prune=None)
    again = Experiment.resume(search.location, {})
    assert 4 not in [plan.index for plan in again.remaining()]
    assert again.retry_failed() == 1
    for one in (again, Experiment.read(search.location)):
        assert (one.trials[4].outcome, one.trials[4].reason) == (None, None)
        assert 4 in [plan.index for plan in one.remaining()]


def test_a_search_of_an_earlier_version_is_not_resumed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}
    search = Experiment.create(str(tmp_path / "old"), load_space("digits"), options)
    values = search.space.draw()[0]
    search.dir.event("ended", trial=0, values=values, how="completed", why="score 3")
    said = Ended(capfd, "tune", "--storage", tmp_path, "--resume", "old").mistake()
    assert "begun with an earlier version of act_ray" in said
