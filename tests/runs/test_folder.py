"""A run's folder here and on an object store, which a run can be resumed from alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import saved_steps
from act_ray.runs.folder import RunFolder
from act_ray.train import loop
from tests.helpers.tiny_runs import assert_same_run, go, killed_at, tiny
from tests.helpers.tiny_settings import AUGMENTED


def answer(run: RunFolder, ask: Callable[..., bool] = RunFolder.stop_requested) -> bool:
    """Whether a stop is requested now."""
    ask(run, every=0)
    if run.asking is not None:
        run.asking.join()
    return ask(run, every=60)


@pytest.mark.parametrize("remote", [False, True])
def test_reading_and_the_stop_flag(remote: bool, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "run"
    run, other = (RunFolder(place.as_uri() if remote else str(place)) for _ in range(2))
    assert run.read("config.yaml") is None
    assert not answer(run)
    run.clear_stop()
    other.request_stop()
    assert answer(run)
    run.clear_stop()
    assert not answer(run)
    assert not (place / "STOP").exists()
    (place / "config.yaml").write_text("a: ü")
    assert run.read("config.yaml") == "a: ü"


def test_a_remote_stop_flag_is_not_asked_for_at_every_flush(tmp_path: Path) -> None:
    run = RunFolder(tmp_path.as_uri())
    assert not answer(run)
    run.request_stop()
    assert not run.stop_requested(every=60)
    assert answer(run)


# ---------------------------------------------------------------------------------------------- object store


@pytest.fixture
def new_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to be on a machine that has nothing."""
    nodes = iter(range(100))

    def move() -> None:
        monkeypatch.setenv("ACT_RAY_CACHE", str(tmp_path / f"node{next(nodes)}"))

    move()
    return move


@pytest.mark.parametrize("crash", [[10], [3, 7]], ids=str)
def test_a_run_resumed_from_the_store_alone_is_the_same(
    crash: list[int], whole_augmented: Path, tmp_path: Path, new_node: Any
) -> None:
    place = tmp_path / "bucket" / "runs" / "a"
    for step in crash:
        killed_at(tiny(AUGMENTED), place.as_uri(), step)
        new_node()
    go(tiny(AUGMENTED), place.as_uri())
    assert_same_run(place, whole_augmented)
    events = RunFolder(str(place)).rows("events.jsonl")
    assert [row["step"] for row in events if row["event"] in ("started", "resumed")][-1] == {10: 8, 7: 5}[crash[-1]]
    assert {p.name for p in place.rglob("*") if p.name.startswith(".")} == set()
    for folder in (place / "checkpoints").iterdir():  # no half-deleted ones either
        checkpoint.verify(folder)


def test_a_push_that_was_cut_off_is_fallen_back_from_and_repaired(
    whole: Path, tmp_path: Path, new_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint on the store is without its manifest, or with a damaged file: the next run replaces it."""
    place = tmp_path / "bucket"
    killed_at(tiny(), place.as_uri(), 10)
    for harm in ((lambda: (place / "checkpoints/step-00000008/MANIFEST.json").unlink()),
                 (lambda: (place / "checkpoints/step-00000008/ema.safetensors").write_bytes(b"short"))):  # fmt: skip
        harm()
        new_node()
        killed_at(tiny(), place.as_uri(), 9)
        assert saved_steps(place / "checkpoints")[-1] == 8
        for folder in (place / "checkpoints").iterdir():
            checkpoint.verify(folder)
    new_node()
    go(tiny(), place.as_uri())
    assert_same_run(place, whole)


def test_a_stop_through_the_store(whole: Path, tmp_path: Path, new_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "bucket"
    original = loop.train_step

    def asking(state: Any, *rest: Any) -> Any:
        if state.step == 6:
            RunFolder(place.as_uri()).request_stop()
        return original(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", asking)
        patch.setattr(RunFolder, "stop_requested", answer)
        last = go(tiny(), place.as_uri())[-1]
    assert (last["outcome"], last["step"]) == ("stopped", 8)
    assert not (place / "STOP").exists()
    assert json.loads((place / "result.json").read_text()) == last
    new_node()
    go(tiny(), place.as_uri())
    assert_same_run(place, whole)


def test_a_push_leaves_newer_evaluations_alone(tmp_path: Path, new_node: Any) -> None:
    (tmp_path / "bucket").mkdir()
    rows = tmp_path / "bucket" / "evaluations.jsonl"
    rows.write_text("old")
    run = RunFolder((tmp_path / "bucket").as_uri())
    run.open()
    rows.write_text("new")
    run.json("progress.json", {})
    run.push()
    run.close()
    assert (rows.read_text(), (tmp_path / "bucket" / "progress.json").exists()) == ("new", True)


def test_what_is_deleted_here_is_deleted_there(tmp_path: Path, new_node: Any) -> None:
    go(tiny({"checkpoint.every": 1, "eval.every": 12}), (tmp_path / "bucket").as_uri())
    best = 12
    assert saved_steps(tmp_path / "bucket/checkpoints") == [11, best]
    for folder in (tmp_path / "bucket/checkpoints").iterdir():
        assert len(list(folder.iterdir())) == 9
