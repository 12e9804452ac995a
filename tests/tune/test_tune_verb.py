"""`python -m act_ray.tune` with mistakes: one line, exit code 2, before Ray starts and before a folder is made."""

from pathlib import Path

import pytest

from act_ray.cli import run
from act_ray.tune.__main__ import command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "search_spaces/digitz.yaml"], "did you mean 'search_spaces/digits.yaml'?"),
        (["--space", "search_spaces/cifar10.yaml", "--data", "digits"], "needs 3 channels"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--set", "loss.v=1"], "loss.v: no such setting; did you mean 'loss.w'?"),
        (["--set", "loss.w=0.5"], "both searched and set"),
        (["--resume", "nothing"], "no such search"),
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
        ("{model.init: {choice: [a, b]}}", "parameters.model.init: its network is the same for all trials"),
        ("{model.init: {choice: [a]}, model.layers_per_block: {choice: [1, 2]}}", "parameters.model.init"),
    ):
        Path("space.yaml").write_text(f"preset: digits\nparameters: {parameters}\n")
        with pytest.raises(SystemExit) as ended:
            run(command, ["--space", "space.yaml"])
        assert (ended.value.code, said in capsys.readouterr().err) == (2, True)
