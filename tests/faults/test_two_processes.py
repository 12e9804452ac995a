"""A second process in the folder of a run or a search that goes on: refused, and let in once the first is gone."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from act_ray.runs import folder
from act_ray.runs.folder import RunFolder
from act_ray.runs.lock import exclusive
from act_ray.train import loop
from act_ray.tune.__main__ import alone
from act_ray.tune.experiment import Experiment
from tests.faults.test_signals import become_train, train
from tests.helpers.command import Ended
from tests.helpers.fault_ledger import note
from tests.helpers.ray_searches import until
from tests.helpers.searches import made_up
from tests.helpers.tiny_runs import assert_same_run


@contextlib.contextmanager
def begun(function: Callable[[], object]) -> Iterator[int]:
    """A child that runs a function; its process, which does not outlive the block."""
    if (pid := os.fork()) == 0:
        try:
            function()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):  # the block waited for it
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def paused(at: int, reached: Path, go_on: Path) -> Callable[[], None]:
    """Have the process wait before a step, until the file `go_on` is there."""

    def prepare() -> None:
        original = loop.train_step

        def wrapped(state: Any, *rest: Any) -> Any:
            if state.step == at:
                reached.touch()
                while not go_on.exists():
                    time.sleep(0.01)
            return original(state, *rest)

        loop.train_step = wrapped

    return prepare


def impatient() -> None:
    """It does not wait half a minute for the other to be gone."""
    folder.exclusive = lambda path, busy, wait_s: exclusive(path, busy, 0.1)


def written(run: Path) -> dict[Path, bytes]:
    """All files of a run but its checkpoints, of which the first process is still writing one."""
    return {path: path.read_bytes() for path in run.glob("*") if path.is_file()}


def test_a_second_train_in_a_runs_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    place, said, go_on = tmp_path / "run", tmp_path / "said", tmp_path / "go_on"
    with begun(lambda: become_train(place, tmp_path / "first", paused(5, tmp_path / "5", go_on))) as first:
        assert until((tmp_path / "5").exists)
        RunFolder(str(place)).request_stop()  # it is the first one's, and not for the second to forget
        before = written(place)
        assert train(place, said, impatient) == 2, said.read_text()
        busy = f"error: {place}: is being trained by another process; wait for it or stop it first"
        assert said.read_text().splitlines()[-1] == busy
        assert written(place) == before
        go_on.touch()
        assert os.waitpid(first, 0)[1] == 0
    assert "saved at step 6 of 12" in (tmp_path / "first").read_text()

    waits = paused(8, tmp_path / "8", tmp_path / "never")
    with begun(lambda: become_train(place, tmp_path / "first", waits)) as first:
        assert until((tmp_path / "8").exists)
        os.kill(first, signal.SIGKILL)
        assert train(place, said, impatient) == 0, said.read_text()  # at once
        assert os.waitpid(first, 0)[1] == signal.SIGKILL
    assert_same_run(place, whole)
    note("two `train`, one folder", "the second is refused in a line; goes on, bit for bit, once the first is killed")


def test_a_second_driver_writes_nothing_into_a_search(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search, held = made_up(tmp_path / "s"), tmp_path / "held"

    def hold() -> None:
        with alone(search.location):
            held.touch()
            time.sleep(600)

    with begun(hold):
        assert until(held.exists)
        before = {path: path.read_bytes() for path in search.dir.path.glob("*") if path.is_file()}
        again = ("tune", "--storage", tmp_path, "--resume", "s", "--max-failures", 7, "--retry-failed")
        assert Ended(capfd, *again).mistake() == f"{search.location}: another process is running this search"
        assert {path: path.read_bytes() for path in search.dir.path.glob("*") if path.is_file()} == before
    with alone(search.location):
        assert Experiment.resume(search.location, {}).state == "running"
