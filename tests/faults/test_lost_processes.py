"""Processes of a run, of a search, and of Ray itself that are killed or stopped: nothing is lost, nothing hangs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP
from typing import Any

import pytest

from act_ray import settings
from act_ray.outcomes import TrialOutcome
from act_ray.runs.folder import RunFolder
from act_ray.runs.lock import LOCK
from act_ray.train.loop import train_here
from act_ray.train.ray_workers import fit
from act_ray.tune import ray_search
from tests.helpers.command import Ended
from tests.helpers.fault_ledger import FULL, Note, note
from tests.helpers.ray_searches import DEADLINE_S, everything_is_free, experiment, pids_of, until
from tests.helpers.tiny_runs import assert_same_run, newest, rows
from tests.helpers.tiny_settings import ON_RAY

Fault = tuple[str, signal.Signals, int]  # of whom, which, how many steps after the last one
CLASSES = {"worker": "TrainWorker", "controller": "TrainController"}
PATIENCE_S = 10
OFTEN = {"train.log_every": 1, "checkpoint.every": 5, "eval.every": 16, "train.hang_timeout": PATIENCE_S}
SMALL: list[Fault] = [("worker", SIGKILL, 7), ("worker", SIGSTOP, 7), ("controller", SIGKILL, 7)]
SEQUENCES: dict[str, list[Fault]] = {
    "every 7 steps": [("worker", SIGKILL, 7)] * 10,
    "every 50 steps": [("worker", SIGKILL, 50)] * 10,
    "stopped": [("worker", SIGSTOP, 20), ("controller", SIGKILL, 20), ("controller", SIGSTOP, 20)] * 3,
}


class Watched:
    """A run that is to be hurt: waits for its steps, and measures how it goes on."""

    def __init__(self, place: Path) -> None:
        self.place, self.run = place, RunFolder(str(place))

    def resumed(self) -> list[int]:
        """The steps from which it went on."""
        return [row["step"] for row in self.run.rows("events.jsonl") if row["event"] == "resumed"]

    def steps(self) -> int:
        """How many are done."""
        return max((row["step"] + 1 for row in self.run.rows("metrics.jsonl")[-1:]), default=0)

    def hurt(self, who: str, pid: int, how: signal.Signals) -> Note:
        """Send the signal to the process now, and wait until a further step is done."""
        before, done, at = len(self.resumed()), self.steps(), time.monotonic()
        os.kill(pid, how)
        assert until(lambda: len(self.resumed()) > before)
        assert until(lambda: self.steps() > self.resumed()[-1])
        return Note(f"{how.name}, {who}", "went on bit for bit", done - self.resumed()[-1], time.monotonic() - at)

    def holder(self) -> int:
        """The process of Ray's that holds its lock."""
        lock = str(self.place / LOCK)
        (pid,) = {p for p in pids_of("") for fd in Path(f"/proc/{p}/fd").iterdir() if os.path.realpath(fd) == lock}
        return pid


@pytest.mark.slow
@pytest.mark.parametrize("faults", SEQUENCES.values() if FULL else [SMALL], ids=SEQUENCES if FULL else ["each once"])
def test_a_run_of_two_workers_goes_on_bit_for_bit(faults: list[Fault], cluster: None, tmp_path: Path) -> None:
    steps = sum(after for *_, after in faults) + 60  # a run must not end while its processes are looked for
    cfg = settings.load("digits", {**ON_RAY, **OFTEN, "train.total_steps": steps})
    fit(cfg, str(tmp_path / "whole"), workers=2)

    old = pids_of("")  # Ray ends a finished run's controller some time later
    box, said, place = dict[str, Any](), list[str](), tmp_path / "hurt"
    watched = Watched(place)

    def train() -> None:
        box.update(fit(cfg, str(place), workers=2, max_failures=len(faults), say=said.append))

    thread, reached, notes = threading.Thread(target=train), 0, list[Note]()
    thread.start()
    for who, how, after in faults:
        reached += after
        assert until(lambda: watched.steps() > 0)
        pid = next(pid for pid in pids_of(CLASSES[who]) if pid not in old)
        assert until(lambda reached=reached: watched.steps() > reached)  # type: ignore[misc]
        notes.append(watched.hurt(who, pid, how))
    thread.join(DEADLINE_S)
    assert box["outcome"] == "completed"
    assert_same_run(place, tmp_path / "whole")
    assert [row["event"] for row in watched.run.rows("events.jsonl")] == [
        "started",
        *["resumed"] * len(faults),
        "completed",
    ]
    told = ["controller" if who == "controller" else "worker" for who, how, _ in faults if how == SIGSTOP]
    assert [word for line in said for word in ("worker", "controller") if word in line and "killed" in line] == told, (
        said
    )
    for one in notes:
        note(one.fault, one.outcome, one.lost, one.seconds)


@pytest.mark.slow
def test_trials_whose_processes_are_lost_equal_uninterrupted_runs(cluster: None, tmp_path: Path) -> None:
    """One is killed, another stopped: the search tries it again, from its checkpoint."""
    search = experiment(tmp_path, {**OFTEN, "train.total_steps": 120})
    search.options["max_failures"] = 2
    notes = list[Note]()

    def hurt(index: int, how: signal.Signals) -> None:
        def begun() -> Watched | None:
            return next((Watched(place) for place in search.dir.path.glob(f"trials/{index:03d}-*")), None)

        assert until(lambda: (one := begun()) is not None and one.steps() > 7)
        if (trial := begun()) is not None:
            notes.append(trial.hurt("trial", trial.holder(), how))

    # A search wants the main thread, for its signals.
    threads = [threading.Thread(target=hurt, args=fault) for fault in ((0, SIGKILL), (1, SIGSTOP))]
    for thread in threads:
        thread.start()
    assert ray_search.search(search) is False
    for thread in threads:
        thread.join()
    assert len(notes) == 2
    for trial in search.trials.values():
        assert trial.outcome == TrialOutcome.COMPLETED
        whole = tmp_path / trial.plan.name
        train_here(trial.plan.config, str(whole), gpu=False)
        assert_same_run(search.local_trial(trial.plan), whole)
    assert until(everything_is_free)
    for one in notes:
        note(one.fault, one.outcome, one.lost, one.seconds)


@pytest.mark.slow
@pytest.mark.own_ray
def test_a_search_whose_driver_or_ray_is_lost_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGKILL to a search's process, to its raylet (and GCS), then Ctrl-C: --resume runs only what had not ended.

    A second driver beside the first is refused, and is let in once that is killed.
    """
    space = tmp_path / "space.yaml"
    set_ = {
        **ON_RAY,
        "train.total_steps": 300,
        "eval.every": 20,
        "checkpoint.every": 100,
        "train.hang_timeout": PATIENCE_S,
    }
    parameters = {"train.seed": {"grid": [0, 1, 2]}}
    space.write_text(json.dumps({"preset": "digits", "set": set_, "scheduler": "none", "parameters": parameters}))
    base = [sys.executable, "-m", "act_ray.tune", "--storage", str(tmp_path)]
    resume = [*base, "--resume", "search"]
    log = tmp_path / "search" / "events.jsonl"

    def trials_with(kind: str) -> list[int]:
        return [row["trial"] for row in (rows(log) if log.exists() else []) if row["event"] == kind]

    def send(number: int, command: list[str], whom: str, once: Callable[[], bool]) -> tuple[int, str]:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            assert until(once)
            pid, at = driver.pid if whom == "driver" else child(driver.pid, whom), time.monotonic()
            os.kill(pid, number)
            printed, _ = driver.communicate(timeout=DEADLINE_S)
            if number == SIGKILL:
                note(f"SIGKILL, {whom}", "ended in a line; --resume lost no trial", None, time.monotonic() - at)
            return driver.returncode, printed

    def after(trial: int) -> Callable[[], bool]:
        seen = trials_with("reported").count(trial)
        return lambda: trials_with("reported").count(trial) > seen

    def second_is_refused() -> bool:
        if not there():
            return False
        before = (tmp_path / "search" / "experiment.yaml").read_bytes()
        line = Ended(capfd, "tune", *resume[3:], "--max-failures", 7, "--retry-failed").mistake()
        assert line == f"{tmp_path}/search: another process is running this search"
        assert (tmp_path / "search" / "experiment.yaml").read_bytes() == before
        note("two drivers, one search", "the second is refused in a line; goes on once the first is killed")
        return True

    first, there = [*base, "--space", str(space), "--name", "search", "--concurrent", "1"], after(1)
    send(SIGKILL, first, "driver", second_is_refused)
    assert trials_with("ended") == [0]
    for whom in ("raylet", "gcs_server") if FULL else ("raylet",):
        code, printed = send(SIGKILL, resume, whom, after(1))
        assert code == 2, printed
        assert "Traceback" not in printed
        assert (
            f"error: Ray on this machine is lost: its {whom} ended (SIGKILL); go on with: " in printed.splitlines()[-1]
        )
        assert trials_with("ended") == [0]
    code, printed = send(SIGINT, resume, "driver", after(2))
    assert code == 130, printed
    assert "go on with: python -m act_ray.tune --resume search" in printed
    assert "Traceback" not in printed
    assert trials_with("ended") == [0, 1]
    third = next((tmp_path / "search" / "trials").glob("002-*"))
    assert int(newest(third).name.removeprefix("step-")) % 100  # saved when it was asked to

    with subprocess.Popen(resume, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as end:
        assert until(after(2))
        if FULL:  # nobody watches the trial for longer than it may be silent, and it is not killed afterwards
            os.kill(end.pid, SIGSTOP)
            time.sleep(PATIENCE_S + 2)
            os.kill(end.pid, SIGCONT)
            note(f"SIGSTOP, driver, for {PATIENCE_S + 2} s", "went on")
        printed, _ = end.communicate(timeout=DEADLINE_S)
    assert end.returncode == 0, printed
    assert "killed" not in printed
    assert "3 trials: 3 ran to their end" in printed
    assert trials_with("ended") == [0, 1, 2]
    assert trials_with("trial_started").count(0) == 1
    for name in ("001-*", "002-*"):
        trial = next((tmp_path / "search" / "trials").glob(name))
        assert '"event": "resumed"' in (trial / "events.jsonl").read_text()
        assert [row["step"] for row in rows(trial / "metrics.jsonl")] == list(range(300))


def child(pid: int, name: str) -> int:
    """The process of that name which another has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        comm, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        if comm == name and int(rest.split()[1]) == pid:
            return int(stat.parent.name)
    raise AssertionError(f"{pid} has no {name}")
