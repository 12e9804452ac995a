"""Searches on a real Ray, at the smallest size: inline trials, trials on Ray Train, prunes, failures, resumption."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.state import list_actors, list_placement_groups

from act_ray import settings
from act_ray.collapse.record import PruneRecord, replay
from act_ray.errors import UserError
from act_ray.outcomes import TrialOutcome
from act_ray.runs import checkpoint
from act_ray.train.loop import train_here
from act_ray.tune import ray_search, summary
from act_ray.tune.experiment import Experiment
from act_ray.tune.ray_placement import placement
from act_ray.tune.results import rank
from act_ray.tune.space_files import parse_space
from tests.helpers.mistakes import refusal
from tests.helpers.small_disk import resize, small_disk
from tests.helpers.tiny_runs import assert_same_run
from tests.helpers.tiny_settings import ON_RAY

DEADLINE_S = 240  # only a failure takes it; a busy machine takes over 60 to start a trial
OPTIONS = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}
BLOWS_UP = {"optim.lr_g": 1e3}  # not finite within a few steps: the fastest real collapse


def experiment(folder: Path, settings: dict[str, Any] | None = None, workers: int = 0, **fields: Any) -> Experiment:
    raw = {"preset": "digits", "set": {**ON_RAY, **(settings or {})}, "scheduler": "none", **fields}
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
    done = experiment(tmp_path, parameters={"loss.w": {"grid": [0.7]}, "optim.lr_g": {"grid": [1e-3, 1e3]}})
    assert ray_search.search(done) is False
    summary.conclude(done, "FD")
    good, bad = (done.trials[i] for i in range(2))
    assert (good.outcome, bad.outcome) == (TrialOutcome.COMPLETED, TrialOutcome.PRUNED)
    assert [report["step"] for report in good.reports] == [4, 8, 12]
    assert bad.prune is not None
    record = PruneRecord.from_json((done.local_trial(bad.plan) / "prune.json").read_text())
    assert record.evidence is not None
    assert replay(record).to_dict() == {**record.to_dict(), "evidence": None}
    assert bad.prune == record.summary()
    assert bad.prune["signature"] == "divergence"
    assert (bad.best_score, bad.best_step) == (None, None)
    assert "1e+09" not in (done.dir.path / "table.txt").read_text()
    printed = capsys.readouterr().out
    assert printed.count("\n") < 40  # one line per event
    assert f"{good.plan.name} completed" in printed
    assert "compute saved: " in printed
    assert rank(done)[0] is good
    again = shlex.split(next(line for line in printed.splitlines() if line.startswith("run it again: ")))
    overrides = [again[i + 1] for i, word in enumerate(again) if word == "--set"]
    assert settings.load(again[again.index("--preset") + 1], settings.parse_overrides(overrides)) == good.plan.config
    assert (done.dir.path / "best.png").stat().st_size > 500
    saved = json.loads((done.local_trial(good.plan) / "result.json").read_text())
    assert saved["score"] == good.reports[-1]["score"]


def test_asha_stops_a_trial_and_its_state_is_saved(cluster: None, tmp_path: Path) -> None:
    done = experiment(
        tmp_path, {"train.total_steps": 40}, parameters={"optim.lr_g": {"grid": [2e-3, 1e-7, 1e-7, 1e-7]}},
        scheduler="asha", grace=0.1,
    )  # fmt: skip
    ray_search.search(done)
    stopped = [trial for trial in done.trials.values() if trial.outcome == TrialOutcome.SCHEDULER]
    assert stopped
    for trial in stopped:
        assert trial.reason is not None
        assert "misses ASHA's cut" in trial.reason
        assert trial.last is not None
        step, problems = checkpoint.newest_whole(done.local_trial(trial.plan) / "checkpoints")
        assert (step, problems) == (trial.last["step"], [])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_trial_that_waited_and_went_on_equals_an_uninterrupted_run(
    workers: int, cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All wait at 40%, and the most promising go on; a larger budget lets all of them end."""
    raw = {"train.total_steps": 20, "eval.every": 4, "checkpoint.every": 10}
    done = experiment(
        tmp_path, raw, workers, scheduler="freeze-thaw", parameters={"train.seed": {"grid": [0, 1, 2, 3]}}
    )
    done.options["budget"] = "60%"
    assert ray_search.search(done) is False
    waiting = [trial for trial in done.trials.values() if trial.waiting is not None]
    assert waiting
    assert all(trial.outcome is None and trial.step < 20 for trial in waiting)
    assert any(re.search("waits at .0%, behind . that promise more", str(trial.waiting)) for trial in waiting)
    more = Experiment.resume(done.location, {"budget": "100%"})
    assert ray_search.search(more) is False
    assert [trial.outcome for trial in more.trials.values()] == [TrialOutcome.COMPLETED] * 4
    assert f"{waiting[0].plan.name} continues" in capsys.readouterr().out
    whole = tmp_path / "whole"
    told = json.loads(waiting[0].plan.config.model_dump_json())
    told["collapse"]["action"] = "record"  # the scheduler heeds a collapse itself
    train_here(settings.build(told), str(whole), gpu=False)
    assert_same_run(more.local_trial(waiting[0].plan), whole)


def test_optuna_keeps_to_the_constraints(cluster: None, tmp_path: Path) -> None:
    done = experiment(
        tmp_path, {"train.total_steps": 4}, search="optuna", trials=4,
        parameters={"loss.w": {"uniform": [0, 1]}, "loss.w_mid": {"uniform": [0, 1]}},
        constraints=["loss.w_mid <= loss.w"],
    )  # fmt: skip
    ray_search.search(done)
    assert [trial.outcome for trial in done.trials.values()] == [TrialOutcome.COMPLETED] * 4
    assert all(t.plan.values["loss.w_mid"] <= t.plan.values["loss.w"] for t in done.trials.values())


def test_a_trial_whose_input_is_wrong_fails_alone(cluster: None, tmp_path: Path) -> None:
    done = experiment(tmp_path, parameters={"data.path": {"grid": ["digits", "/nowhere"]}})
    ray_search.search(done)
    assert [done.trials[i].outcome for i in range(2)] == [TrialOutcome.COMPLETED, TrialOutcome.FAILED]
    assert "no such folder" in str(done.trials[1].reason)


def test_a_full_disk_ends_no_trial_and_the_search_goes_on(cluster: None, tmp_path: Path) -> None:
    """Two checkpoints of 286 kB find room, and the trials want more."""
    with small_disk(tmp_path / "disk", "1200k") as disk:
        search = experiment(disk, {"train.total_steps": 16})
        said = refusal(ray_search.search, search)
        assert re.match(rf"{disk}/.*: checkpoint \d+ cannot be written: No space left on device: it takes ", said), said
        assert said.endswith(f"no trial has ended by it; {search.how_to_resume}")
        assert [trial.outcome for trial in Experiment.read(search.location).trials.values()] in ([None], [None, None])
        resize(disk, "100M")
        again = Experiment.resume(search.location, {})
        assert not ray_search.search(again)
        assert [trial.outcome for trial in again.trials.values()] == [TrialOutcome.COMPLETED] * 2
    assert until(everything_is_free)


def test_a_search_whose_time_is_over_is_interrupted_and_goes_on_later(cluster: None, tmp_path: Path) -> None:
    search = experiment(tmp_path, {"train.total_steps": 40})
    for until_now in (time.time() - 1.0, time.time() + 1.0):  # before, or while the first process starts
        assert ray_search.search(search, until_now)
        assert search.state == "interrupted"
        assert all(trial.outcome is None for trial in search.trials.values())
    assert not ray_search.search(search, time.time() + DEADLINE_S)
    assert [trial.outcome for trial in search.trials.values()] == [TrialOutcome.COMPLETED] * 2
    assert until(everything_is_free)


def test_what_cannot_fit_is_refused_with_the_arithmetic(cluster: None) -> None:
    with pytest.raises(UserError, match="a trial needs 3 CPUs, the cluster has 2; at most 2"):
        placement(workers=3, concurrent=None)
    assert placement(workers=2, concurrent=None).concurrent == 1


@pytest.mark.slow
@pytest.mark.parametrize("trials", [3, 10])
def test_prunes_in_a_row_leave_nothing_behind(trials: int, cluster: None, tmp_path: Path) -> None:
    """Collapsing trials of a Ray Train worker each, two at a time on two CPUs: what two leak blocks the third."""
    done = experiment(tmp_path, BLOWS_UP, workers=1, parameters={"train.seed": {"grid": list(range(trials))}})
    ray_search.search(done)
    assert [trial.outcome for trial in done.trials.values()] == [TrialOutcome.PRUNED] * trials
    for trial in done.trials.values():
        events = (done.local_trial(trial.plan) / "events.jsonl").read_text()
        assert '"event": "pruned"' in events  # the workers ended by themselves
    assert until(everything_is_free)


@pytest.mark.slow
@pytest.mark.own_ray
def test_killed_and_interrupted_driver_loses_no_trial(tmp_path: Path) -> None:
    """SIGKILL to a search's process, then Ctrl-C to the resumed one: --resume runs only what had not ended."""
    space = tmp_path / "space.yaml"
    settings = {**ON_RAY, "train.total_steps": 300, "eval.every": 20, "checkpoint.every": 100}
    parameters = {"train.seed": {"grid": [0, 1, 2]}}
    space.write_text(json.dumps({"preset": "digits", "set": settings, "scheduler": "none", "parameters": parameters}))
    base = [sys.executable, "-m", "act_ray.tune", "--storage", str(tmp_path)]
    resume = [*base, "--resume", "search"]
    log = tmp_path / "search" / "events.jsonl"

    def trials_with(kind: str) -> list[int]:
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [row["trial"] for row in rows if row["event"] == kind]

    def send(number: int, command: list[str], once: Callable[[], bool]) -> tuple[int, str]:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            assert until(once)
            os.kill(driver.pid, number)
            printed, _ = driver.communicate(timeout=DEADLINE_S)
            return driver.returncode, printed

    first = [*base, "--space", str(space), "--name", "search", "--concurrent", "1"]
    send(signal.SIGKILL, first, lambda: 1 in trials_with("reported"))
    assert trials_with("ended") == [0]
    code, printed = send(signal.SIGINT, resume, lambda: 2 in trials_with("reported"))
    assert code == 130, printed
    assert "go on with: python -m act_ray.tune --resume search" in printed
    assert "Traceback" not in printed
    assert trials_with("ended") == [0, 1]
    third = next((tmp_path / "search" / "trials").glob("002-*"))
    step, _ = checkpoint.newest_whole(third / "checkpoints")
    assert step is not None
    assert step % 100  # saved when it was asked to, not at its next checkpoint

    end = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout + end.stderr
    assert "3 trials: 3 ran to their end" in end.stdout
    assert trials_with("ended") == [0, 1, 2]
    assert trials_with("trial_started").count(0) == 1
    for name in ("001-*", "002-*"):
        trial = next((tmp_path / "search" / "trials").glob(name))
        assert '"event": "resumed"' in (trial / "events.jsonl").read_text()
        steps = [json.loads(line)["step"] for line in (trial / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(300))
