"""Several workers: they go on together, and a mistake that one of them sees ends all."""

import errno
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from act_ray.errors import StorageError, UserError
from act_ray.runs.checkpoint import saved_steps
from act_ray.runs.folder import RunFolder
from act_ray.train import run as run_module
from act_ray.train import scoring, setup
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import in_child, newest, tensors, tiny


def on_two_workers(meeting: Path, worker: Callable[[int], object]) -> None:
    """Call `worker(rank)` in two forked processes that are connected; fails when one of them does."""

    def rank(number: int) -> None:
        dist.init_process_group("gloo", f"file://{meeting}", rank=number, world_size=2)
        worker(number)

    def both() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(-in_child(lambda: rank(1)))
        signal.alarm(60)  # else a worker left alone waits for half an hour
        rank(0)
        assert os.waitpid(pid, 0)[1] == 0

    assert in_child(both) == 0


def test_gradients_become_their_mean(tmp_path: Path) -> None:
    def worker(rank: int) -> None:
        values = [torch.full((2, 3), float(rank)), torch.tensor([10.0 * rank]), torch.ones(3, 2).t() * rank]
        Ranks().average(values)
        assert [value.unique().tolist() for value in values] == [[0.5], [5.0], [0.5]]

    on_two_workers(tmp_path / "meeting", worker)


def two_workers(location: str, meeting: Path, caches: list[Path], last: int) -> None:
    """Train on two workers until step `last`, each on a node of its own unless they share a cache."""

    def worker(rank: int) -> None:
        os.environ["ACT_RAY_CACHE"] = str(caches[rank])
        for report in train(tiny(), RunFolder(location), Ranks()):
            if report["step"] >= last:
                break

    on_two_workers(meeting, worker)


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
        with pytest.raises(UserError, match="cannot be used as a run's folder"):
            next(train(tiny(), RunFolder(str(tmp_path / "file/run")), Ranks()))

    on_two_workers(tmp_path / "meeting", worker)


def test_a_signature_that_the_first_worker_cannot_write_down_ends_them_all(tmp_path: Path) -> None:
    """Every worker finds it, and the others would wait for the first at the next step."""

    def full(self: RunFolder, what: str, **details: Any) -> None:
        if what in ("signature", "confirmed"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def worker(rank: int) -> None:
        RunFolder.event = full  # type: ignore[method-assign]
        run = run_module.TrainingRun(tiny({"eval.features": "none"}), RunFolder(str(tmp_path / "run")), Ranks())
        with pytest.raises(StorageError, match=r"events\.jsonl cannot be written: No space left"):
            run._watch(run.detector.observe(0, None, None, {"a weight": math.nan}))

    on_two_workers(tmp_path / "meeting", worker)


def test_a_mistake_that_only_the_second_worker_sees_ends_them_all(tmp_path: Path) -> None:
    """Data, feature network or LPIPS missing on one node: the others must not wait for it in a collective."""

    def missing(*_: Any) -> Any:
        raise UserError("not on this node")

    def worker(rank: int) -> None:
        for module, name in ((run_module, "open_data"), (scoring, "load_network"), (setup, "distance")):
            original = getattr(module, name)
            if rank == 1:
                setattr(module, name, missing)
            with pytest.raises(UserError, match="not on this node"):
                next(train(tiny(), RunFolder(str(tmp_path / "run")), Ranks()))
            setattr(module, name, original)
        next(train(tiny(), RunFolder(str(tmp_path / "run"), lock_wait_s=0), Ranks()))  # and the folder was let go

    on_two_workers(tmp_path / "meeting", worker)
