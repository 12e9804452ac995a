"""Searches on a real Ray, at the smallest size: inline trials, trials on Ray Train, prunes, failures, resumption."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import TINY
from ray.util.state import list_actors, list_placement_groups

from act_ray.collapse.record import PruneRecord, replay
from act_ray.distributed import outcome, tuner
from act_ray.distributed.experiment import COMPLETED, FAILED, PRUNED, SCHEDULER, Experiment
from act_ray.distributed.space import parse_space
from act_ray.errors import UserError
from act_ray.training import checkpoint

DEADLINE_S = 60
OPTIONS = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}
BLOWS_UP = {"optim.lr_g": 1e8}  # not finite within a few steps: the fastest real collapse


def experiment(folder: Path, settings: dict[str, Any] | None = None, workers: int = 0, **fields: Any) -> Experiment:
    raw = {"preset": "digits", "set": {**TINY, **(settings or {})}, "scheduler": "none", **fields}
    raw.setdefault("parameters", {"loss.w": {"grid": [0.7, 0.9]}})
    options = {**OPTIONS, "workers_per_trial": workers}
    return Experiment.create(str(folder / "search"), parse_space(raw, "test"), options)


def until(reached: Callable[[], bool]) -> bool:
    """Whether it came true within the deadline; looked at often, never slept out."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if reached():
            return True
        time.sleep(0.05)
    return False


def everything_is_free() -> bool:
    busy = [g for g in list_placement_groups() if g.state not in ("REMOVED",)]
    workers = [a for a in list_actors(filters=[("state", "=", "ALIVE")]) if "TrainWorker" in a.class_name]
    return ray.available_resources().get("CPU") == 2.0 and not busy and not workers


def test_inline_search_ends_with_a_table_and_a_picture(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = experiment(tmp_path, parameters={"loss.w": {"grid": [0.7]}, "optim.lr_g": {"grid": [1e-3, 1e8]}})
    assert tuner.search(done) is False
    outcome.conclude(done, "FD")
    good, bad = (done.trials[i] for i in range(2))
    assert (good.ended, bad.ended) == (COMPLETED, PRUNED)
    assert [report["step"] for report in good.reports] == [4, 8, 12]
    assert bad.why.startswith("divergence: ")
    record = PruneRecord.from_json((done.local_trial(bad.plan) / "prune.json").read_text())
    assert replay(record).to_dict() == record.to_dict()
    assert bad.last is not None
    assert bad.last["score"] == 1e9
    printed = capsys.readouterr().out
    assert printed.count("\n") < 40  # one line per event
    assert f"{good.plan.name} completed" in printed
    assert "compute saved: " in printed
    assert outcome.ranked(done)[0] is good
    assert (done.dir.path / "best.png").stat().st_size > 500
    saved = json.loads((done.local_trial(good.plan) / "result.json").read_text())
    assert saved["score"] == good.reports[-1]["score"]


def test_asha_stops_a_trial_and_its_state_is_saved(cluster: None, tmp_path: Path) -> None:
    done = experiment(
        tmp_path, {"train.total_steps": 40}, parameters={"optim.lr_g": {"grid": [2e-3, 1e-7, 1e-7, 1e-7]}},
        scheduler="asha", grace=0.1,
    )  # fmt: skip
    tuner.search(done)
    stopped = [trial for trial in done.trials.values() if trial.ended == SCHEDULER]
    assert stopped
    for trial in stopped:
        assert "misses ASHA's cut" in trial.why
        assert trial.last is not None
        step, problems = checkpoint.newest_whole(done.local_trial(trial.plan) / "checkpoints")
        assert (step, problems) == (trial.last["step"], [])


def test_optuna_keeps_to_the_constraints(cluster: None, tmp_path: Path) -> None:
    done = experiment(
        tmp_path, {"train.total_steps": 4}, search="optuna", trials=4,
        parameters={"loss.w": {"uniform": [0, 1]}, "loss.w_mid": {"uniform": [0, 1]}},
        constraints=["loss.w_mid <= loss.w"],
    )  # fmt: skip
    tuner.search(done)
    assert [trial.ended for trial in done.trials.values()] == [COMPLETED] * 4
    assert all(t.plan.values["loss.w_mid"] <= t.plan.values["loss.w"] for t in done.trials.values())


def test_a_trial_whose_input_is_wrong_fails_alone(cluster: None, tmp_path: Path) -> None:
    done = experiment(tmp_path, parameters={"data.path": {"grid": ["digits", "/nowhere"]}})
    tuner.search(done)
    assert [done.trials[i].ended for i in range(2)] == [COMPLETED, FAILED]
    assert "no such folder" in done.trials[1].why


def test_what_cannot_fit_is_refused_with_the_arithmetic(cluster: None) -> None:
    with pytest.raises(UserError, match="a trial needs 3 CPUs, the cluster has 2; at most 2"):
        tuner.placement(workers=3, concurrent=None)
    assert tuner.placement(workers=2, concurrent=None).concurrent == 1


def test_ten_prunes_in_a_row_leave_nothing_behind(cluster: None, tmp_path: Path) -> None:
    """Ten collapsing trials of a Ray Train worker each, two at a time on two CPUs: a leak would block the next."""
    done = experiment(tmp_path, BLOWS_UP, workers=1, parameters={"train.seed": {"grid": list(range(10))}})
    tuner.search(done)
    assert [trial.ended for trial in done.trials.values()] == [PRUNED] * 10
    for trial in done.trials.values():
        events = (done.local_trial(trial.plan) / "events.jsonl").read_text()
        assert '"event": "pruned"' in events  # the workers ended by themselves
    assert until(everything_is_free)


def test_killed_driver_loses_no_finished_trial(tmp_path: Path) -> None:
    """SIGKILL to a search's process; --resume runs only what had not ended, from its checkpoints."""
    space = tmp_path / "space.yaml"
    settings = {**TINY, "train.total_steps": 200, "eval.every": 20, "checkpoint.every": 20}
    parameters = {"train.seed": {"grid": [0, 1, 2]}}
    space.write_text(json.dumps({"preset": "digits", "set": settings, "scheduler": "none", "parameters": parameters}))
    base = [sys.executable, "-m", "act_ray.tune", "--storage", str(tmp_path)]
    log = tmp_path / "search" / "events.jsonl"

    def events(kind: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [row for row in rows if row["event"] == kind]

    command = [*base, "--space", str(space), "--name", "search", "--concurrent", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        second_is_under_way = lambda: any(row["trial"] == 1 for row in events("reported"))  # noqa: E731
        assert until(second_is_under_way) or until(second_is_under_way)
        os.kill(driver.pid, signal.SIGKILL)
    before = events("ended")
    assert [row["trial"] for row in before] == [0]
    resumed = subprocess.run([*base, "--resume", "search"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [row["trial"] for row in events("ended")] == [0, 1, 2]
    started = [row["trial"] for row in events("trial_started")]
    assert started.count(0) == 1
    trial = next((tmp_path / "search" / "trials").glob("001-*"))
    assert '"event": "resumed"' in (trial / "events.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in (trial / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(200))
    assert "3 trials: 3 ran to their end" in resumed.stdout
