"""Workers that die: another one takes their job, or they are an error."""

import os
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError

from act_ray.evaluate.ray_workers import WorkerPool


def test_an_idle_worker_takes_the_job_of_a_lost_one(cluster: None, tmp_path: Path) -> None:
    """Of two, with one job left, one dies of it, and there is no room for another."""

    class Worker:
        def ready(self) -> None: ...

        def measure(self, died: Path) -> int:
            if not died.exists():
                died.touch()
                os._exit(1)
            return 7

    room = [{}, {}]
    crew = WorkerPool(lambda: ray.remote(num_cpus=1, resources=room.pop() if room else {"none": 1})(Worker).remote(), 2)
    ray.get([worker.ready.remote() for worker in crew.actors])
    assert list(crew.in_order([(tmp_path / "died",)])) == [7]
    crew.stop()


def test_workers_that_die_one_after_the_other_are_an_error(cluster: None) -> None:
    class Worker:
        def ready(self) -> None:
            os._exit(1)

    crew = WorkerPool(ray.remote(num_cpus=0)(Worker).remote, 1)
    with pytest.raises(ActorDiedError):
        list(crew.in_order([()]))
    crew.stop()
