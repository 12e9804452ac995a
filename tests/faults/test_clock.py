"""A clock that is set while something runs: nothing is killed, nothing ends early, and no time is negative."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from act_ray.runs.progress import read_progress
from act_ray.train.loop import train_here
from act_ray.tune.experiment import Experiment
from tests.helpers.clocks import HOUR, Clock
from tests.helpers.fault_ledger import FULL, note
from tests.helpers.ray_searches import DEADLINE_S, until
from tests.helpers.tiny_runs import assert_same_run, rows
from tests.helpers.tiny_settings import ON_RAY, TINY, as_options

JUMPS = {"forwards": (HOUR, HOUR), "backwards": (-HOUR, -HOUR), "both": (HOUR, -HOUR)}

TRAINS = """
import os, struct, sys, time
import torch
from act_ray import cli
from act_ray.train import loop

step, jumps = loop.train_step, {4: int(sys.argv[1]), 8: int(sys.argv[2])}

def jumping(state, *rest):
    if state.step in jumps:
        before = time.time()
        with open(os.environ["CLOCK_OFFSET"], "r+b") as file:
            file.write(struct.pack("q", jumps[state.step]))
        print("jumped", round((time.time() - before) / 3600), flush=True)
    return step(state, *rest)

loop.train_step = jumping
torch.set_num_threads(1)
cli.run(cli.group, sys.argv[3:], "act-ray")
"""


@pytest.mark.parametrize("how", JUMPS if FULL else ["both"])
def test_a_runs_clock_jumps(how: str, whole: Path, tmp_path: Path) -> None:
    clock, (first, second) = Clock(tmp_path), JUMPS[how]
    train = ["train", "--workers", "0", "--storage", tmp_path, "--name", "run", *as_options(TINY)]
    ended = subprocess.run(
        [sys.executable, "-c", TRAINS, str(first), str(second), *train], env=clock.environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    jumps = [first // HOUR, (second - first) // HOUR]
    assert [int(found) for found in re.findall(r"^jumped (\S+)$", ended.stdout, re.M)] == jumps
    assert all(eta < "0:10:00" for eta in re.findall(r"ETA (\S+)", ended.stdout)), ended.stdout
    assert_same_run(tmp_path / "run", whole)
    assert 0 < json.loads((tmp_path / "run" / "result.json").read_text())["seconds"] < HOUR / 2
    progress = read_progress(tmp_path / "run")
    assert progress is not None
    assert progress.steps_per_second > 0.01
    note(f"the clock jumps {how} by an hour, run", "not noticed: bit for bit the same")


@pytest.mark.slow
@pytest.mark.own_ray
@pytest.mark.skipif(not FULL, reason="FAULTS=full: a search of a minute and a half")
@pytest.mark.parametrize("how", JUMPS)
def test_a_searchs_clock_jumps(how: str, tmp_path: Path) -> None:
    """That of the driver, of Ray's own processes and of the trials. Nothing may be silent for more than ten seconds."""
    clock, space = Clock(tmp_path), tmp_path / "space.yaml"
    set_ = {**ON_RAY, "train.total_steps": 80, "eval.every": 10, "train.hang_timeout": 10}
    parameters = {"train.seed": {"grid": [0, 1, 2]}}
    space.write_text(json.dumps({"preset": "digits", "set": set_, "scheduler": "none", "parameters": parameters}))
    command = [sys.executable, "-m", "act_ray.tune", "--storage", str(tmp_path), "--space", str(space), "--name", "s"]
    log = tmp_path / "s" / "events.jsonl"

    def reports() -> int:
        return sum(row["event"] == "reported" for row in rows(log)) if log.exists() else 0

    with subprocess.Popen(
        command, env=clock.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        for count, offset in zip((2, 14), JUMPS[how], strict=True):
            assert until(lambda count=count: reports() >= count or driver.poll() is not None)  # type: ignore[misc]
            clock.jump(offset)
        assert reports() < 24  # it had some way to go
        printed, _ = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 0, printed
    assert "killed" not in printed
    assert "3 trials: 3 ran to their end" in printed
    stamps = [row["time"] for row in rows(log)]
    assert max(stamps) - min(stamps) > HOUR / 2  # the log has the time of day as it was
    search = Experiment.read(str(tmp_path / "s"))
    for trial in search.trials.values():
        seconds = [report["seconds"] for report in trial.reports]
        assert seconds == sorted(seconds)
        assert 0 < seconds[0] <= seconds[-1] < HOUR / 2
        events = [row["event"] for row in rows(search.local_trial(trial.plan) / "events.jsonl")]
        assert (events.count("started"), events.count("resumed")) == (1, 0)
        train_here(trial.plan.config, str(tmp_path / trial.plan.name), gpu=False)
        assert_same_run(search.local_trial(trial.plan), tmp_path / trial.plan.name)
    note(f"the clock jumps {how} by an hour, search", "not noticed: bit for bit the same")
