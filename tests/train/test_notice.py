"""A machine that is about to be taken away, told by a notice that somebody made up (a real one: tests/cluster)."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from act_ray.errors import StorageError, UserError
from act_ray.runs.folder import RunFolder
from act_ray.runs.retries import StoreError
from act_ray.runs.storage import ObjectStore
from act_ray.train import notice
from act_ray.train.loop import train
from act_ray.train.notice import Notice
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import assert_same_run, go, newest, rows, same, tensors, tiny


def test_it_saves_at_once_and_goes_on_when_the_machine_stays(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "MARGIN_S", 1e3)  # its end is so near that the next step would be lost
    monkeypatch.setattr(notice, "GRACE_S", 0.2)
    ends: list[float] = []

    def ask() -> float:
        ends.append(ends[0] if ends else time.time() + 0.1)
        return ends[0]

    *_, last = train(tiny(), RunFolder(str(tmp_path / "run")), Ranks(), ask=ask)
    assert last["outcome"] == "completed"
    (note,) = [row for row in rows(tmp_path / "run/events.jsonl") if row["event"] == "note"]
    assert note["text"] == "this machine is to be taken away in 0 s: saved at step 3"
    assert len(ends) == 4  # asked at every flush, and heeded once: its time is over
    assert_same_run(tmp_path / "run", whole)


def test_a_checkpoint_that_takes_longer_than_the_notice_is_refused(whole: Path, tmp_path: Path) -> None:
    said = r"checkpoint.notice = 1: a checkpoint of \S+ kB takes \d.\d s in .*/short, .*; needed: \d s, "
    with pytest.raises(UserError, match=said):
        go(tiny({"checkpoint.notice": 1}), tmp_path / "short")
    go(tiny({"checkpoint.notice": 60}), tmp_path / "long")
    assert same(tensors(newest(tmp_path / "long")), tensors(newest(whole)))
    for place in (tmp_path / "short", tmp_path / "long"):
        assert not (place / ".rehearsal").exists()


def test_a_rehearsal_that_cannot_be_uploaded_leaves_nothing_behind(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ObjectStore.upload

    def failing(store: ObjectStore, name: str, path: Path) -> None:
        if name.endswith(("model.safetensors", "MANIFEST.json")) and ".rehearsal" in name:
            raise StoreError(f"{store.uri}: failed for 60 s")
        upload(store, name, path)

    monkeypatch.setattr(ObjectStore, "upload", failing)
    place = (tmp_path / "bucket").as_uri()
    with pytest.raises(StorageError, match="a checkpoint, to see how long it takes, cannot be written to file://"):
        go(tiny({"eval.features": "none", "checkpoint.notice": 60}), place)
    assert not [*tmp_path.rglob("step-*")]
    assert not (RunFolder(place).path / ".rehearsal").exists()


def test_a_run_that_is_rescued_rehearses_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed, original = list[Path](), notice._rehearse
    monkeypatch.setattr(
        notice, "_rehearse", lambda run, seconds: (rehearsed.append(run.folder.path), original(run, seconds))
    )
    blows_up = {"optim.lr_g": 1e3, "collapse.action": "rescue", "collapse.rescues": 2}
    assert go(tiny({**blows_up, "checkpoint.notice": 60}), tmp_path / "run")[-1]["rescues"] == 2
    assert rehearsed == [tmp_path / "run"]


def test_a_clock_that_is_set_moves_no_notice(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours before the machine goes the clock is set three hours ahead: nothing is due."""
    start, saves, original = time.time(), list[int](), Notice._save
    heard = iter([start])
    clocks = SimpleNamespace(time=lambda: next(heard, start + 3 * 3600), monotonic=time.monotonic, sleep=pytest.fail)
    monkeypatch.setattr(notice, "time", clocks)
    monkeypatch.setattr(Notice, "_save", lambda self: (saves.append(self.run.state.step), original(self)))
    *_, last = train(tiny(), RunFolder(str(tmp_path / "run")), Ranks(), ask=lambda: start + 2 * 3600)
    assert last["outcome"] == "completed"
    assert saves == [3]  # when it was heard
    assert_same_run(tmp_path / "run", whole)
