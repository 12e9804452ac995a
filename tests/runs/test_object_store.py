"""Runs on a real S3 server: killed in the middle of an upload, with calls that fail, and with a server that is away."""

import os
import re
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from act_ray.dashboard.run_source import RunSource
from act_ray.errors import StorageError
from act_ray.files import cache_dir
from act_ray.runs import checkpoint, retries
from act_ray.runs.checkpoint import saved_steps
from act_ray.runs.folder import MANIFEST, RunFolder
from act_ray.runs.storage import ObjectStore
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.command import Ended
from tests.helpers.object_stores import copied, flaky
from tests.helpers.tiny_runs import assert_same_run, go, rows, tiny, until_uploaded
from tests.helpers.tiny_settings import TINY, as_options

DIES = """
import os, signal, sys, torch
from act_ray.runs.storage import ObjectStore
from tests.helpers.tiny_runs import go, tiny

upload = ObjectStore.upload

def dying(self, name, path):
    upload(self, name, path)
    if name == "checkpoints/step-00000008/ema.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)

ObjectStore.upload = dying
torch.set_num_threads(1)
go(tiny(), sys.argv[1])
"""


def another_machine(cache: Path, patch: pytest.MonkeyPatch) -> None:
    """From now on this is a machine that has nothing of any run; only the classifier need not be trained again."""
    cache.mkdir()
    (cache / "features").symlink_to(cache_dir("features"))
    patch.setenv("ACT_RAY_CACHE", str(cache))


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "pause", lambda seconds: None)


class Clock:
    """Time that passes only while a call waits for its next try."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retries, "time", made)
    monkeypatch.setattr(retries, "pause", made.pause)
    return made


def test_a_run_killed_in_an_upload_goes_on_elsewhere_from_the_whole_checkpoint_before(
    s3: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = f"{s3}/killed/run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", DIES, place], env=environment).returncode == -signal.SIGKILL
    store = ObjectStore(place)
    half = store.listing("checkpoints/step-00000008")[0]
    assert half
    assert not any(name.endswith(MANIFEST) for name in half)
    another_machine(tmp_path / "second", monkeypatch)
    last = go(tiny(), place)[-1]
    assert last["outcome"] == "completed"
    there = copied(place, tmp_path / "there")
    assert_same_run(there, whole)
    resumed = [row for row in rows(there / "events.jsonl") if row["event"] == "resumed"]
    assert [row["step"] for row in resumed] == [5]
    here = RunFolder(place)
    assert saved_steps(there / "checkpoints") == saved_steps(here.checkpoints) == saved_steps(whole / "checkpoints")
    for folder in (there / "checkpoints").iterdir():
        checkpoint.verify(folder)
    assert not [*here.path.glob(".pushing*")]
    assert "no signature of collapse in 12 steps" in Ended(capfd, "explain", place).out
    page = RunSource("a", place)
    page.refresh(1)
    assert page.entries[0].row["step"] == 12


def test_a_store_that_fails_three_calls_of_ten_loses_nothing(
    s3: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None
) -> None:
    place = f"{s3}/flaky/run"
    with monkeypatch.context() as patch:
        made = flaky(patch, 0.3)
        reports = train(tiny(), RunFolder(place), Ranks())
        assert next(reports)["step"] == 5
        reports.close()  # type: ignore[attr-defined]  # a generator
        another_machine(tmp_path / "second", patch)
        go(tiny(), place)
        assert sum(one.failed for one in made) > 20
    there = copied(place, tmp_path / "there")
    assert_same_run(there, whole)
    assert saved_steps(there / "checkpoints") == saved_steps(whole / "checkpoints")
    for folder in (there / "checkpoints").iterdir():
        checkpoint.verify(folder)


def test_a_store_that_stays_away_ends_the_run_with_a_line_and_it_goes_on(
    s3: str, whole: Path, clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    storage = f"{s3}/away"
    made, original = flaky(monkeypatch, 0.0), checkpoint.save

    def save(*args: Any) -> Path:
        saved = original(*args)
        if saved.name == "step-00000005":
            until_uploaded()
            for one in made:
                one.rate = 1.0
        return saved

    monkeypatch.setattr(checkpoint, "save", save)
    line = Ended(capfd, "train", "--workers", "0", "--storage", storage, "--name", "a", *as_options(TINY)).mistake()
    assert re.fullmatch(
        rf"\S.* cannot be written to {storage}/a: failed for 60 s: AWS Error .*; bring the storage back, and --resume "
        "goes on from the last whole checkpoint",
        line,
    ), line
    assert clock.waits[:8] == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
    assert sum(clock.waits) <= 60
    monkeypatch.setattr(checkpoint, "save", original)
    for one in made:
        one.rate = 0.0
    Ended(capfd, "train", "--workers", "0", "--resume", f"{storage}/a").succeeded()
    there = copied(f"{storage}/a", tmp_path / "there")
    assert_same_run(there, whole)
    assert [row["step"] for row in rows(there / "events.jsonl") if row["event"] == "resumed"] == [4]


def test_what_will_not_pass_is_told_at_once(
    s3: str, clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ("train", "--workers", "0", *as_options(TINY), "--storage")
    line = Ended(capfd, *start, "s3://nowhere/runs").mistake()
    assert re.match(r"the run's files cannot be written to s3://nowhere/runs/\S+: .* bucket does not exist; ", line), (
        line
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        assert "ACCESS_DENIED" in Ended(capfd, *start, f"{s3}/runs").mistake()
        with pytest.raises(StorageError, match=r"^s3://bucket/x: .*ACCESS_DENIED"):
            ObjectStore(f"{s3}/x").listing()
    finally:
        server.shutdown()
        server.server_close()
    assert clock.waits == []


class Refusing(BaseHTTPRequestHandler):
    """403 for everything."""

    def _refuse(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_HEAD = _refuse

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
