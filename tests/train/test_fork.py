"""A run that goes on from a checkpoint of another one."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from act_ray.runs.checkpoint import prune, saved_steps
from act_ray.runs.folder import RunFolder
from act_ray.train.fork import fork, forked_config, read_lineage
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun
from tests.helpers.command import Ended
from tests.helpers.tiny_runs import assert_same_run, go, newest, rows, tiny
from tests.helpers.tiny_settings import TINY


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forks") / "parent"
    go(tiny({"checkpoint.keep": 9}), folder)
    return folder


@pytest.mark.parametrize("at", [4, 5, 8])
def test_without_a_change_it_is_its_parent(at: int, parent: Path, tmp_path: Path) -> None:
    fork(str(parent), at, {}, str(tmp_path))
    assert go(forked_config(str(parent), at, {}), tmp_path)[-1]["outcome"] == "completed"
    assert_same_run(tmp_path, parent)


def test_a_fork_that_did_not_begin_is_made_anew(parent: Path, tmp_path: Path) -> None:
    for at in (4, 8):
        fork(str(parent), at, {}, str(tmp_path))
    go(forked_config(str(parent), 8, {}), tmp_path)
    assert_same_run(tmp_path, parent)


def test_a_change_holds_from_the_checkpoint_on(parent: Path, tmp_path: Path) -> None:
    changes = {"loss.gp_weight": 3.0, "collapse.blocks": 10}
    fork(str(parent), 8, changes, str(tmp_path))
    last = go(forked_config(str(parent), 8, changes), tmp_path)[-1]
    assert last["outcome"] == "completed"
    ours, theirs = rows(tmp_path / "metrics.jsonl"), rows(parent / "metrics.jsonl")
    assert ours[:8] == theirs[:8]
    assert (ours[8]["loss_ct"], ours[8]["gp"]) == (theirs[8]["loss_ct"], theirs[8]["gp"])  # the same noise and images
    assert ours[8]["loss_gp"] == pytest.approx(10 * theirs[8]["loss_gp"])
    assert ours[9]["loss_g"] != theirs[9]["loss_g"]
    lineage = read_lineage(RunFolder(str(tmp_path)))
    assert lineage is not None
    assert (lineage.parent, lineage.step, lineage.changes) == (str(parent), 8, changes)


def test_a_changed_learning_rate_is_that_of_the_next_step(parent: Path, tmp_path: Path) -> None:
    """The checkpoint's own holds only for what it was saved with."""
    changes = {"optim.lr_d": 0.5, "optim.beta2_g": 0.5}
    fork(str(parent), 8, changes, str(tmp_path))
    go(forked_config(str(parent), 8, changes), tmp_path)
    saved = json.loads((newest(tmp_path) / "state.json").read_text())["optimizers"]
    assert saved["optimizer_d"]["param_groups"][0]["lr"] == 0.5
    assert saved["optimizer_g"]["param_groups"][0]["betas"][1] == 0.5
    name = "discriminator.safetensors"
    before, ours, theirs = (
        load_file(run / name) for run in (parent / "checkpoints/step-00000008", newest(tmp_path), newest(parent))
    )
    moved = [max(float((after[k] - before[k]).abs().max()) for k in before) for after in (ours, theirs)]
    assert moved[0] > 10 * moved[1]


def test_a_fork_from_the_command_and_its_mistakes(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["--fork", parent, "--workers", 0, "--storage", tmp_path]
    Ended(capfd, "train", *base, "--at", 5, "--name", "child", "--set", "loss.w=0.9").succeeded()
    assert json.loads((tmp_path / "child" / "lineage.json").read_text())["changes"] == {"loss.w": 0.9}
    assert "resumed from step 5" in Ended(capfd, "train", *base, "--at", 5, "--name", "again").succeeded()
    for more, said in (
        (["--at", 7], f"--at 7: {parent} has no checkpoint of that step; nearest: 8; it has 4, 5, 8, 12"),
        ([], "--fork RUN --at STEP: give both"),
        (["--at", 7, "--dry-run"], f"--at 7: {parent} has no checkpoint of that step"),
        (["--at", 8, "--set", "train.total_steps=8"], "--at 8: train.total_steps = 8; nothing is left to train"),
        (["--at", 5, "--set", "model.layers_per_block=2"], "--set model.layers_per_block: a fork goes on with its"),
        (
            ["--at", 5, "--set", "loss.w=0", "--set", "loss.w_mid=0"],
            "--set loss.w=0: the checkpoint has a discriminator",
        ),
        (["--at", 5, "--seed", 3], "--fork RUN: takes its settings from the run; change them with --set"),
    ):
        assert Ended(capfd, "train", *base, "--name", "wrong", *more).mistake().startswith(said)
    assert not (tmp_path / "wrong").exists()


def test_a_fork_with_other_features_begins_without_its_parents_best(parent: Path, tmp_path: Path) -> None:
    """The two cannot be compared; auto is what it is on this machine, as where a run begins."""
    changes, end = {"eval.features": "auto"}, {"train.total_steps": 10, "eval.every": 10}
    forked = forked_config(str(parent), 8, changes | end)
    assert forked.eval.features == "self_supervised"
    for more, kept in ((end, True), ({**end, "eval.features": "none"}, False), ({**end, "eval.samples": 24}, False)):
        folder = tmp_path / f"{len(more)}-{more.get('eval.samples')}"
        fork(str(parent), 8, more, str(folder))
        run = TrainingRun(forked_config(str(parent), 8, more), RunFolder(str(folder)), Ranks())
        assert (run.best is not None, run.last_score is not None) == (kept, kept)


def test_checkpoints_from_before_a_signature_outlive_the_newer_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        (tmp_path / f"step-{step:08d}").mkdir()
    prune(tmp_path, newest=60, keep=2, best=10, good=(2, 35))
    assert saved_steps(tmp_path) == [10, 20, 30, 50, 60]


def test_the_smallest_settings_have_nothing_of_a_fork(parent: Path) -> None:
    assert read_lineage(RunFolder(str(parent))) is None
    assert forked_config(str(parent), 8, {}) == tiny({"checkpoint.keep": 9, **TINY})
