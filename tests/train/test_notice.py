"""A machine that is about to be taken away, told by a notice that somebody made up (a real one: tests/cluster)."""

import time
from pathlib import Path

import pytest

from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.train import notice
from act_ray.train.loop import train
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
