"""Ray Train for real: two workers equal one, and a killed worker changes nothing."""

import hashlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ray.util.state import list_actors

from act_ray import settings
from act_ray.errors import UserError
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train_here
from act_ray.train.ray_workers import fit
from tests.helpers.tiny_settings import ON_RAY

DEADLINE_S = 240


def digest(location: Path) -> str:
    """Of all tensors of the newest checkpoint."""
    step, problems = checkpoint.newest_whole(location / "checkpoints")
    assert step is not None
    assert not problems
    folder = checkpoint.step_folder(location / "checkpoints", step)
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.glob("*.safetensors")))).hexdigest()


def test_two_workers_score_like_one(cluster: None, tmp_path: Path) -> None:
    cfg = settings.load("digits", ON_RAY)
    one = train_here(cfg, str(tmp_path / "one"))
    two = fit(cfg, str(tmp_path / "two"), workers=2)
    assert two["outcome"] == one["outcome"] == "completed"
    assert two["score"] == pytest.approx(one["score"], rel=1e-3)
    rows = [[row["loss_f"] for row in RunFolder(str(tmp_path / n)).rows("metrics.jsonl")] for n in ("one", "two")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_changes_nothing(how: signal.Signals, cluster: None, tmp_path: Path) -> None:
    """One of two is killed, or stopped and then killed by the watch: same final state, no step missing or twice."""
    short = {"train.total_steps": 160, "checkpoint.every": 20, "eval.every": 80, "train.hang_timeout": 15}
    cfg, said = settings.load("digits", {**ON_RAY, **short}), list[str]()
    fit(cfg, str(tmp_path / "whole"), workers=2)

    box: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: box.update(fit(cfg, str(tmp_path / "killed"), workers=2, say=said.append)))
    thread.start()
    _send_to_a_worker_after(tmp_path / "killed", 30, how)
    thread.join(DEADLINE_S)
    assert [line[:7] for line in said] == ([] if how == signal.SIGKILL else ["worker "]), said
    assert box["outcome"] == "completed"
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    rows = [RunFolder(str(tmp_path / name)).rows("metrics.jsonl") for name in ("killed", "whole")]
    assert rows[0] == rows[1]
    events = [row["event"] for row in RunFolder(str(tmp_path / "killed")).rows("events.jsonl")]
    assert events == ["started", "resumed", "completed"]


def _send_to_a_worker_after(location: Path, step: int, how: signal.Signals) -> None:
    run, end = RunFolder(str(location)), time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        rows = run.rows("metrics.jsonl")
        if rows and rows[-1]["step"] >= step:
            actors = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
            workers = [actor.pid for actor in actors if "TrainWorker" in actor.class_name]
            os.kill(workers[-1], how)
            return
        time.sleep(0.02)
    raise AssertionError("the run never got that far")


def test_a_mistake_that_only_workers_see_comes_back_as_one_line(cluster: None, tmp_path: Path) -> None:
    cfg = settings.load("digits", {**ON_RAY, "data.path": "/nowhere"})
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        fit(cfg, str(tmp_path / "run"), workers=1)
