"""Checkpoints in the background: training goes on, one is written at a time, and what fails is told."""

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from act_ray import settings
from act_ray.errors import StorageError, UserError
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import Snapshot, saved_steps
from act_ray.runs.folder import RunFolder
from act_ray.train import loop
from act_ray.train.loop import train, train_here
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import assert_same_run
from tests.helpers.tiny_settings import TINY

SETTINGS = {**TINY, "train.log_every": 1, "eval.every": 100}  # a checkpoint every 4 steps, to step 12


class Held:
    """A storage that writes nothing until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.writing, self.most = threading.Event(), 0, 0
        self.original = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", self.save)

    def save(self, root: Path, snapshot: Snapshot) -> Path:
        self.writing += 1
        self.most = max(self.most, self.writing)
        assert self.go.wait(60)
        self.writing -= 1
        return self.original(root, snapshot)


def test_training_goes_on_meanwhile_and_the_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 8's checkpoint waits for that of step 4, which holds nothing of the steps that came meanwhile."""
    cfg = settings.load("digits", SETTINGS)
    train_here(cfg, str(tmp_path / "whole"), gpu=False)
    held, done, step = Held(monkeypatch), list[int](), loop.train_step

    def counted(state: Any, *args: Any) -> Any:
        metrics = step(state, *args)
        done.append(state.step)
        if state.step == 8:
            assert not saved_steps(tmp_path / "a" / "checkpoints")
            held.go.set()
        return metrics

    monkeypatch.setattr(loop, "train_step", counted)
    train_here(cfg, str(tmp_path / "a"), gpu=False)
    assert done == list(range(1, 13))
    assert held.most == 1
    assert_same_run(tmp_path / "a", tmp_path / "whole")
    assert saved_steps(tmp_path / "a" / "checkpoints") == saved_steps(tmp_path / "whole" / "checkpoints")
    for at in (tmp_path / "a" / "checkpoints").iterdir():
        checkpoint.verify(at)
        assert {file.name: file.read_bytes() for file in at.iterdir() if file.suffix == ".safetensors"} == {
            file.name: file.read_bytes()
            for file in (tmp_path / "whole" / "checkpoints" / at.name).iterdir()
            if file.suffix == ".safetensors"
        }


def test_what_fails_ends_the_run_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path, snapshot: Snapshot) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(StorageError, match=r"checkpoint 4 cannot be written: No space left on device: it takes \d+ kB"):
        train_here(settings.load("digits", SETTINGS), str(tmp_path / "a"), gpu=False)


def test_a_run_that_is_closed_has_written_and_is_held_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed at its first report, with a checkpoint under way: nobody else may open it before that is whole."""
    cfg = settings.load("digits", {**SETTINGS, "eval.every": 6, "eval.features": "none"})
    held = Held(monkeypatch)
    reports = train(cfg, RunFolder(str(tmp_path / "a")), Ranks())
    next(reports)
    closing = threading.Thread(target=reports.close)  # type: ignore[attr-defined]
    closing.start()
    with pytest.raises(UserError, match="is being trained by another process"):
        RunFolder(str(tmp_path / "a"), lock_wait_s=0).open()
    held.go.set()
    closing.join()
    assert checkpoint.newest_whole(tmp_path / "a" / "checkpoints") == (6, [])
