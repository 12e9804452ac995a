"""Uploads in the background: no step waits, what is uploaded is what was there, errors come to the main thread."""

import math
import threading
from pathlib import Path
from typing import Any

import pytest

from act_ray.runs.folder import MANIFEST, RunFolder
from act_ray.runs.storage import ObjectStore
from act_ray.train import loop
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import assert_same_run, tiny

WAIT_S = 60.0  # for a gate that should have opened


class Gate:
    """Every call of a store waits for it while it is shut; the names that were uploaded."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open, self.reached, self.uploaded = threading.Event(), threading.Event(), list[str]()
        self.open.set()
        upload, exists = ObjectStore.upload, ObjectStore.exists

        def gated_upload(store: ObjectStore, name: str, path: Path) -> None:
            self.wait()
            self.uploaded.append(name)
            upload(store, name, path)

        def gated_exists(store: ObjectStore, name: str) -> bool:
            self.wait()
            return exists(store, name)

        patch.setattr(ObjectStore, "upload", gated_upload)
        patch.setattr(ObjectStore, "exists", gated_exists)

    def wait(self) -> None:
        self.reached.set()
        assert self.open.wait(WAIT_S)

    def shut(self) -> None:
        self.open.clear()
        self.reached.clear()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Gate:
    return Gate(monkeypatch)


def save(run: RunFolder, step: int, keep: int) -> Path:
    """Something like a checkpoint, and nothing but the last `keep`."""
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    for name in ("ema.safetensors", MANIFEST):
        (folder / name).write_text(f"{name} {step}")
    for old in sorted(run.checkpoints.iterdir())[:-keep]:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    (run.path / "metrics.jsonl").write_text(f"{step}\n")
    return folder


def push_three(gate: Gate, run: RunFolder, keep: int) -> None:
    """While the first is under way the second waits, and the third takes its place."""
    gate.shut()
    for step in (1, 2, 3):
        run.push_later(save(run, step, keep))
        if step == 1:
            assert gate.reached.wait(WAIT_S)
    gate.open.set()
    run.close()


def test_an_upload_has_what_was_there_and_the_newest_request_replaces_those_that_wait(
    gate: Gate, tmp_path: Path
) -> None:
    run = RunFolder((tmp_path / "bucket").as_uri())
    run.open()
    push_three(gate, run, keep=1)
    one, three = (f"checkpoints/step-0000000{step}" for step in (1, 3))
    each = [["metrics.jsonl", f"{folder}/ema.safetensors", f"{folder}/{MANIFEST}"] for folder in (one, three)]
    assert gate.uploaded == [name for names in each for name in names]
    there = {str(path.relative_to(tmp_path / "bucket")) for path in (tmp_path / "bucket").rglob("*") if path.is_file()}
    assert there == set(each[1])
    assert (tmp_path / "bucket" / three / "ema.safetensors").read_text() == "ema.safetensors 3"
    assert not [*run.path.glob(".pushing*")]


def test_a_checkpoint_written_again_replaces_the_one_there_though_its_request_was_replaced(
    gate: Gate, tmp_path: Path
) -> None:
    run = RunFolder((tmp_path / "bucket").as_uri())
    run.open()
    damaged = tmp_path / "bucket" / "checkpoints" / "step-00000002"
    damaged.mkdir(parents=True)
    (damaged / "ema.safetensors").write_text("damaged")
    push_three(gate, run, keep=2)
    assert (damaged / "ema.safetensors").read_text() == "ema.safetensors 2"


def test_what_an_upload_raised_is_raised_by_the_next_push(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder((tmp_path / "bucket").as_uri())
    run.open()
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "listing", lambda *args: (_ for _ in ()).throw(PermissionError(13, "refused")))
        for attempt in (run.pushed, run.close):
            run.push_later(save(run, len(gate.uploaded) + len([*run.checkpoints.iterdir()]), keep=9))
            with pytest.raises(PermissionError, match="refused"):
                attempt()
    run.push()  # it is told once
    assert any(name.endswith(MANIFEST) for name in gate.uploaded)


def test_no_step_waits_for_the_store(gate: Gate, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shut from the third step on, over three checkpoints and every look for a stop, until the last step."""
    original = loop.train_step

    def step(state: Any, *rest: Any) -> Any:
        if state.step == 2:
            gate.shut()
        if state.step == 11:
            assert gate.reached.is_set()
            gate.open.set()
        return original(state, *rest)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(RunFolder.stop_requested, "__defaults__", (0.0,))
    *_, last = train(tiny(), RunFolder((tmp_path / "bucket").as_uri()), Ranks())
    assert last["outcome"] == "completed"
    assert_same_run(tmp_path / "bucket", whole)


def test_at_a_notice_the_run_goes_on_when_the_store_has_the_checkpoint(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, pushed, there = loop.train_step, RunFolder.pushed, list[bool]()

    def step(state: Any, *rest: Any) -> Any:
        if state.step == 4:
            gate.shut()  # it opens when somebody waits
        if state.step == 6:
            there.append((tmp_path / "bucket/checkpoints/step-00000006" / MANIFEST).exists())
        return original(state, *rest)

    def opening(run: RunFolder) -> None:
        gate.open.set()
        pushed(run)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(RunFolder, "pushed", opening)
    asked = iter([None, math.inf])
    run = RunFolder((tmp_path / "bucket").as_uri())
    assert [*train(tiny({"eval.features": "none"}), run, Ranks(), ask=lambda: next(asked))]
    assert there == [True]
