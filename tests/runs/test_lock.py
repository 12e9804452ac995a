"""A run's folder is of one process at a time."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import assert_same_run, go, killed_at, tiny


def test_a_folder_in_which_another_run_trains_is_refused(whole: Path, tmp_path: Path) -> None:
    """The other one is not disturbed, and closing it, or its death, lets the next one in."""
    reports = train(tiny(), RunFolder(str(tmp_path)), Ranks())
    assert next(reports)["step"] == 5
    for location in (str(tmp_path), f"{tmp_path}/../{tmp_path.name}"):
        with pytest.raises(UserError) as error:
            next(train(tiny(), RunFolder(location, lock_wait_s=0.1), Ranks()))
        assert str(error.value).startswith(f"{location}: is being trained by another process")
    reports.close()  # type: ignore[attr-defined]
    killed_at(tiny(), tmp_path, 11)
    go(tiny(), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_folder_is_waited_for_until_the_other_run_ends(whole: Path, tmp_path: Path) -> None:
    """A real process that holds it for a moment, as the last worker of a killed driver does, and for good."""
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path / ".lock"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="is being trained by another process"):
            next(train(tiny(), RunFolder(str(tmp_path), lock_wait_s=0), Ranks()))
        threading.Timer(1, other.kill).start()
        go(tiny(), tmp_path)
    assert other.returncode == -signal.SIGKILL
    assert_same_run(tmp_path, whole)


def test_a_remote_run_keeps_its_lock_when_its_scratch_is_replaced(tmp_path: Path) -> None:
    location = (tmp_path / "bucket").as_uri()
    reports = train(tiny(), RunFolder(location), Ranks())
    next(reports)
    for _ in range(2):
        with pytest.raises(UserError, match="is being trained by another process"):
            next(train(tiny(), RunFolder(location, lock_wait_s=0), Ranks()))
    reports.close()  # type: ignore[attr-defined]
    assert go(tiny(), location)[-1]["outcome"] == "completed"
    assert not list(tmp_path.rglob(".lock"))
