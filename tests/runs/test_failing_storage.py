"""A disk that is full while a run writes: one line, whole checkpoints, and --resume goes on."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from act_ray.errors import StorageError
from act_ray.runs import checkpoint
from act_ray.runs.failing_storage import told
from tests.helpers.command import Ended
from tests.helpers.tiny_runs import assert_same_run, rows
from tests.helpers.tiny_settings import TINY, as_options


@pytest.fixture
def _limit_restored() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_limit_restored")
@pytest.mark.parametrize(
    ("limit", "what", "kept"),
    [(40_000, "checkpoint 5 cannot be written: File too large: it takes 286 kB", 4), (800, "metrics.jsonl cannot", 4)],
)
def test_a_run_ends_with_a_line_and_goes_on(
    limit: int, what: str, kept: int, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After the first checkpoint no file may be larger than `limit`: what a small disk does, without mounting one."""
    original, (_, hard) = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(*args: Any) -> Path:
        saved = original(*args)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return saved

    monkeypatch.setattr(checkpoint, "save", save)
    run = tmp_path / "a"
    line = Ended(capfd, "train", "--workers", "0", "--storage", tmp_path, "--name", "a", *as_options(TINY)).mistake()
    assert line.startswith(f"{run}: {what}"), line
    assert " are free there; make room, and --resume goes on from the last whole checkpoint" in line
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    monkeypatch.setattr(checkpoint, "save", original)
    assert checkpoint.newest_whole(run / "checkpoints") == (kept, [])
    assert not (run / "checkpoints" / ".writing").exists()
    Ended(capfd, "train", "--workers", "0", "--resume", run).succeeded()
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [*range(12)]
    assert_same_run(run, whole)


def test_what_safetensors_makes_of_it_is_told_and_other_errors_pass(tmp_path: Path) -> None:
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    line = r"x cannot be written: No space left on device: it takes 3 B; .* are free"
    with pytest.raises(StorageError, match=line), told("x", tmp_path, lambda: 3):
        raise full
    for code in (errno.EDQUOT, errno.EIO):
        with pytest.raises(StorageError, match=os.strerror(code)), told("x", tmp_path):
            raise OSError(code, os.strerror(code))
    with pytest.raises(FileNotFoundError), told("x", tmp_path):
        (tmp_path / "nowhere").read_text()
