"""The run's folder: rows that survive a killed writer, and its copy on an object store (file:// takes that path)."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import saved_steps
from act_ray.runs.folder import RunFolder
from act_ray.runs.storage import join, storage_is_local
from act_ray.train import loop, scoring, setup
from act_ray.train import run as run_module
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import assert_same_run, go, in_child, killed_at, newest, tensors, tiny
from tests.helpers.tiny_settings import AUGMENTED


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(str(tmp_path / "run"))
    run.open()
    return run


# ---------------------------------------------------------------------------------------------- rows


def test_rows_come_back_as_they_were_written(run: RunFolder) -> None:
    rows = [{"step": n, "loss": 0.1 * n, "name": "ü\u2028\n"} for n in range(3)]
    run.append("a.jsonl", rows[:2])
    run.append("a.jsonl", rows[2:])
    assert run.rows("a.jsonl") == rows
    assert run.rows("missing.jsonl") == []


def test_values_that_are_not_finite_are_strict_json(run: RunFolder) -> None:
    run.append("a.jsonl", [{"step": 0, "x": float("nan"), "deep": {"y": [float("inf"), -float("inf"), 1.5]}}])
    run.json("b.json", {"x": float("nan")})
    for name in ("a.jsonl", "b.json"):
        json.loads((run.path / name).read_text(), parse_constant=lambda word: pytest.fail(word))
    assert run.rows("a.jsonl") == [{"step": 0, "x": "NaN", "deep": {"y": ["Infinity", "-Infinity", 1.5]}}]


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3, "loss": 0.25}', "\x00\x00"])
def test_a_torn_last_line_is_dropped_and_not_glued_to_the_next(run: RunFolder, torn: str) -> None:
    """The second is whole but for its newline: whoever resumes writes it again."""
    run.append("a.jsonl", [{"step": n} for n in range(3)])
    with (run.path / "a.jsonl").open("a") as file:
        file.write(torn)
    again = RunFolder(run.location)
    again.append("a.jsonl", [{"step": 3, "new": True}])
    again.append("a.jsonl", [{"step": 4}])
    assert again.rows("a.jsonl") == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "new": True}, {"step": 4}]


def test_a_file_that_is_one_torn_line(run: RunFolder) -> None:
    (run.path / "a.jsonl").write_text('{"st')
    assert run.rows("a.jsonl") == []
    run.append("a.jsonl", [{"step": 0}])
    assert (run.path / "a.jsonl").read_text() == '{"step": 0}\n'


def test_truncate_drops_what_a_resumed_run_writes_again(run: RunFolder) -> None:
    run.append("a.jsonl", [{"step": n, "x": 0.1 + 0.2, "bad": float("nan")} for n in range(5)])
    before = (run.path / "a.jsonl").read_text()
    run.truncate("a.jsonl", 5)
    assert (run.path / "a.jsonl").read_text() == before
    with (run.path / "a.jsonl").open("a") as file:
        file.write('{"step": 5, ')
    run.truncate("a.jsonl", 3)
    assert (run.path / "a.jsonl").read_text() == "".join(before.splitlines(keepends=True)[:3])
    run.truncate("a.jsonl", 0)
    assert run.rows("a.jsonl") == []


def test_locations() -> None:
    assert [storage_is_local(x) for x in ("runs", "/a", "file:///a", "s3://a", "gs://a/b")] == [True] * 3 + [False] * 2
    assert (join("s3://a/", "b", "c"), join("runs", "b")) == ("s3://a/b/c", "runs/b")
    with pytest.raises(UserError, match=r"gopher://x/y: not a usable URI") as error:
        RunFolder("gopher://x/y")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("remote", [False, True])
def test_reading_and_the_stop_flag(remote: bool, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "run"
    run, other = (RunFolder(place.as_uri() if remote else str(place)) for _ in range(2))
    assert run.read("config.yaml") is None
    assert not run.stop_requested(every=0)
    run.clear_stop()
    other.request_stop()
    assert run.stop_requested(every=0)
    run.clear_stop()
    assert not run.stop_requested(every=0)
    assert not (place / "STOP").exists()
    (place / "config.yaml").write_text("a: ü")
    assert run.read("config.yaml") == "a: ü"


def test_a_remote_stop_flag_is_not_asked_for_at_every_flush(tmp_path: Path) -> None:
    run = RunFolder(tmp_path.as_uri())
    assert not run.stop_requested(every=60)
    run.request_stop()
    assert not run.stop_requested(every=60)
    assert run.stop_requested(every=0)


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
        patch.setattr(RunFolder.stop_requested, "__defaults__", (0.0,))
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


# ---------------------------------------------------------------------------------------------- several workers


def two_workers(location: str, meeting: Path, caches: list[Path], last: int) -> None:
    """Train on two workers until step `last`, each on a node of its own unless they share a cache."""

    def worker(rank: int) -> None:
        os.environ["ACT_RAY_CACHE"] = str(caches[rank])
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
        for report in train(tiny(), RunFolder(location), Ranks()):
            if report["step"] >= last:
                break

    def both() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(-in_child(lambda: worker(1)))
        worker(0)
        assert os.waitpid(pid, 0)[1] == 0

    assert in_child(both) == 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_two_workers_resume_from_the_store(nodes: int, tmp_path: Path) -> None:
    """On one node they share the scratch folder; on two the second has nothing, or what an earlier run left there."""
    caches = [tmp_path / "node0", tmp_path / f"node{nodes - 1}"]
    place, other = tmp_path / "bucket", tmp_path / "whole"
    two_workers(place.as_uri(), tmp_path / "m1", caches, 5)
    assert saved_steps(place / "checkpoints") == [4, 5]
    if nodes == 2:  # a checkpoint of the same step, but of another run, from when this node was the first worker's
        scratch = RunFolder(place.as_uri()).path.name
        shutil.rmtree(caches[1] / "runs" / scratch, ignore_errors=True)
        shutil.copytree(caches[0] / "runs" / scratch, caches[1] / "runs" / scratch)
        for file in (caches[1] / "runs" / scratch / "checkpoints/step-00000005").iterdir():
            file.write_bytes(b"{}")
    two_workers(place.as_uri(), tmp_path / "m2", caches, 12)
    two_workers(str(other), tmp_path / "m3", caches, 12)
    a, b = tensors(newest(place)), tensors(newest(other))
    assert all(a[name].equal(b[name]) for name in b)
    assert (place / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def test_a_mistake_that_only_the_first_worker_sees_ends_them_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def worker(rank: int) -> None:
        dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=rank, world_size=2)
        with pytest.raises(UserError, match="cannot be used as a run's folder"):
            next(train(tiny(), RunFolder(str(tmp_path / "file/run")), Ranks()))

    def both() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(-in_child(lambda: worker(1)))
        worker(0)
        assert os.waitpid(pid, 0)[1] == 0

    assert in_child(both) == 0


def test_a_mistake_that_only_the_second_worker_sees_ends_them_all(tmp_path: Path) -> None:
    """Data, feature network or LPIPS missing on one node: the others must not wait for it in a collective."""

    def missing(*_: Any) -> Any:
        raise UserError("not on this node")

    def worker(rank: int) -> None:
        dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=rank, world_size=2)
        for module, name in ((run_module, "open_data"), (scoring, "load_network"), (setup, "distance")):
            original = getattr(module, name)
            if rank == 1:
                setattr(module, name, missing)
            with pytest.raises(UserError, match="not on this node"):
                next(train(tiny(), RunFolder(str(tmp_path / "run")), Ranks()))
            setattr(module, name, original)
        next(train(tiny(), RunFolder(str(tmp_path / "run"), lock_wait_s=0), Ranks()))  # and the folder was let go

    def both() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(-in_child(lambda: worker(1)))
        signal.alarm(60)  # else a worker left alone waits for half an hour
        worker(0)
        assert os.waitpid(pid, 0)[1] == 0

    assert in_child(both) == 0


def test_real_images_are_scored_by_the_first_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "reference_statistics", lambda *_: pytest.fail("a pass over all images"))
    ranks = Ranks()
    ranks.rank = 1
    scoring.Scorer(tiny(), open_data("digits"), ranks, print)
