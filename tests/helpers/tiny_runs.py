"""The smallest run that is still a whole one, ways to kill it, and the comparison of two runs bit for bit."""

import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from act_ray import settings
from act_ray.config import Config
from act_ray.core import losses
from act_ray.outcomes import Report
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder
from act_ray.runs.rows import parse_rows
from act_ray.runs.uploads import UPLOAD
from act_ray.train import loop
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_settings import TINY

KEYS = {
    "step",
    "images",
    "score",
    "best_score",
    "best_step",
    "diversity",
    "seconds",
    "outcome",
    "rescues",
    "given_up",
    "prune",
}


def tiny(more: dict[str, Any] | None = None) -> Config:
    return settings.load("digits", {**TINY, **(more or {})})


def go(cfg: Config, location: Path | str) -> list[Report]:
    """Train to whatever end; every report has the same keys and no value that breaks a scheduler."""
    reports = list(train(cfg, RunFolder(str(location)), Ranks()))
    for report in reports:
        assert set(report) == KEYS
        assert all(math.isfinite(value) for value in report.values() if isinstance(value, int | float))
    assert [report["outcome"] is None for report in reports] == [True] * (len(reports) - 1) + [False]
    return reports


def nan_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """L_CT is NaN at the so-manieth steps that are taken, the first is 0."""
    original, calls = losses.pseudo_huber, [0]

    def broken(a: Tensor, b: Tensor) -> Tensor:
        calls[0] += torch.is_grad_enabled()  # a step, not a measurement beside the score
        return original(a, b) * (float("nan") if calls[0] - 1 in steps else 1.0)

    monkeypatch.setattr(losses, "pseudo_huber", broken)


# ---------------------------------------------------------------------------------------------- dying


def in_child(function: Callable[[], object]) -> int:
    """Run in a forked child; the signal that ended it, or minus its exit code (1: it raised)."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def until_uploaded() -> None:
    """Wait for what runs of this process upload."""
    for thread in threading.enumerate():
        if thread.name == UPLOAD:
            thread.join()


def killed_at(cfg: Config, location: Path | str, step: int) -> None:
    """Train in a child that is killed with SIGKILL at the start of a step, when what it had to upload is there."""
    name = "diffusion_step" if cfg.train.method == "diffusion" else "train_step"
    original = getattr(loop, name)

    def dying(state: Any, *rest: Any) -> Any:
        if state.step == step:
            until_uploaded()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(state, *rest)

    def child() -> None:
        setattr(loop, name, dying)
        go(cfg, location)

    assert in_child(child) == signal.SIGKILL


# ---------------------------------------------------------------------------------------------- comparing


def rows(path: Path) -> list[dict[str, Any]]:
    """A .jsonl file, every line of which is whole; without the checksums."""
    lines = path.read_bytes().splitlines()
    found, bad = parse_rows(b"".join(line + b"\n" for line in lines), path.name)
    assert (len(found), bad) == (len(lines), 0)
    return found


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    return {f"{p.stem}/{k}": v for p in sorted(folder.glob("*.safetensors")) for k, v in load_file(p).items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two networks are equal, name by name."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def saved(folder: Path, weights: str = "ema") -> dict[str, torch.Tensor]:
    """A checkpoint's weights, under UNet2DModel's names."""
    return {k.removeprefix("network.unet."): v for k, v in load_file(folder / f"{weights}.safetensors").items()}


def newest(run: Path) -> Path:
    step, problems = checkpoint.newest_whole(run / "checkpoints")
    assert step is not None
    assert problems == []
    return checkpoint.step_folder(run / "checkpoints", step)


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The final checkpoints, every row and every picture are the same to the bit; only the clock may differ."""
    a, b = newest(ours), newest(theirs)
    assert a.name == b.name
    x, y = tensors(a), tensors(b)
    assert x.keys() == y.keys()
    assert len(x) > 50
    assert not [name for name in x if x[name].dtype != y[name].dtype or not torch.equal(x[name], y[name])]
    states = [json.loads((folder / "state.json").read_text()) for folder in (a, b)]
    assert all(state.pop("seconds") > 0 for state in states)
    assert states[0] == states[1]
    for name in ("metrics.jsonl", "scores.jsonl", "config.yaml"):
        assert (ours / name).read_text() == (theirs / name).read_text(), name
    pictures = [{p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (ours, theirs)]
    assert pictures[0] == pictures[1]
    last = [json.loads((run / "result.json").read_text()) for run in (ours, theirs)]
    assert all(result.pop("seconds") > 0 for result in last)
    assert last[0] == last[1]
