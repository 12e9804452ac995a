"""auto.json: steps that are done, and the clock, over several sessions."""

import errno
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from act_ray import jsonfile
from act_ray.auto.journal import FILE, Journal
from act_ray.errors import StorageError, UserError


def test_a_step_is_done_once_and_the_time_between_two_sessions_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, set_by = [1000.0], [0.0]  # somebody sets the time of day: that is no time at work
    clocks = SimpleNamespace(time=lambda: now[0] + set_by[0], monotonic=lambda: now[0])
    monkeypatch.setattr("act_ray.auto.journal.time", clocks)
    asked = list[str]()

    def interrupted() -> None:
        first = Journal(tmp_path, "data", 1.0)
        with first.at_work():
            now[0] += 600
            set_by[0] += 3600
            first.step("init", lambda: {"config": str(asked.append("init"))})
            first.note("short")
            first.note("short")
            now[0] += 100
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    now[0] += 86_400
    second = Journal(tmp_path, "data", 1.0)
    with second.at_work():
        assert second.step("init", lambda: {"config": str(asked.append("again"))}) == {"config": "None"}
        now[0] += 50
        set_by[0] -= 7200
        assert second.used == 750
        assert second.left == 2850
        second.step("search", lambda: {"trials": 3})
    assert asked == ["init"]
    assert second.took("search") == 150  # in two sessions
    assert Journal(tmp_path, "data", 1.0).used == 750
    saved = json.loads((tmp_path / FILE).read_text())
    assert [*saved["done"]] == ["init", "search"]
    assert saved["notes"] == ["short"]


def test_a_full_disk_is_a_line_and_the_clock_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("act_ray.auto.journal.SIGN_S", 0.001)
    journal, tried, original = Journal(tmp_path, "data", 1.0), threading.Semaphore(0), jsonfile.write

    def full(path: Path, content: object) -> None:
        tried.release()
        raise OSError(errno.ENOSPC, "No space left on device")

    with journal.at_work():
        monkeypatch.setattr(jsonfile, "write", full)
        for _ in range(3):
            assert tried.acquire(timeout=60)  # after a sign of life that failed there is another
        with pytest.raises(StorageError, match=r"auto\.json cannot be written: No space .* the same command goes on"):
            journal.step("init", dict)
        monkeypatch.setattr(jsonfile, "write", original)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path, "/data", 1.0).at_work():
        pass
    with pytest.raises(UserError, match=r"was begun with --hours 1\.0; give that to go on, or another --out"):
        Journal(tmp_path, "/data", 2.0)
    with pytest.raises(UserError, match=r"was begun with /data; choose another --out for /other"):
        Journal(tmp_path, "/other", 1.0)
    (tmp_path / FILE).write_text('{"data": "/data"')
    with pytest.raises(UserError, match=r"auto\.json: cannot be read; choose another --out"):
        Journal(tmp_path, "/data", 1.0)
