"""Samples and their features, spread over Ray workers; which worker did what shows in no number."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from act_ray.errors import UserError
from act_ray.evaluate.measurer import Measure, Measurer, Setup
from act_ray.metrics.moments import Measured
from act_ray.ray_cluster import connected, gpu_per_worker, nodes

LOSSES = 3  # of workers, per worker: with more it is no chance, such as a spot machine's end


# ---------------------------------------------------------------------------------------------- workers


@contextlib.contextmanager
def measuring_on_ray(
    setup: Setup, workers: int | None, gpu: bool | None, say: Callable[[str], None] = lambda line: None
) -> Iterator[Measure]:
    """Yields what measures chunks on `workers` Ray workers; None: as many as the cluster has room for."""
    with connected():
        count, use_gpu = place(workers, gpu)
        say(f"starting {count} worker{'s' if count > 1 else ''}, each with a {'GPU' if use_gpu else 'CPU'}")
        remote = ray.remote(num_cpus=1, num_gpus=int(use_gpu))(Measurer)
        pool = WorkerPool(lambda: remote.remote(use_gpu), count)
        fetch = functools.partial(ray.get, ray.put(setup))  # one copy for all workers of a node
        try:
            yield lambda chunks, *how: pool.in_order([(fetch, chunk, *how) for chunk in chunks])
        finally:
            pool.stop()


def place(workers: int | None, gpu: bool | None) -> tuple[int, bool]:
    """How many workers, and whether each has a GPU. Raises UserError for what one machine can never hold."""
    use_gpu = gpu_per_worker(workers or 1, gpu)
    have = int(ray.cluster_resources().get("GPU" if use_gpu else "CPU", 0))
    if workers is not None and use_gpu and nodes() == 1 and 0 < have < workers:
        raise UserError(f"--workers {workers}: this machine has {have} GPUs, one per worker; at most {have}, or --cpu")
    return workers or have or 1, use_gpu  # a cluster that has only its head yet grows by the first one


class WorkerPool:
    """Ray workers that do jobs, and are replaced when they are lost.

    Not by Ray's own restarts: a lost worker's job would wait for its return, and on a cluster that lost a node that may
    be never. Here any other worker takes it.
    """

    def __init__(self, start: Callable[[], ActorHandle], count: int) -> None:
        self.start, self.actors = start, [start() for _ in range(count)]
        self.losses = LOSSES * count

    def in_order(self, jobs: Sequence[tuple[Any, ...]]) -> Iterator[Measured]:
        """What `measure` returns for the arguments of each job, in their order; a worker does one at a time.

        At most two jobs per worker are ahead of the one that comes next: their parts wait in Ray's memory. A worker
        takes part from when it has started: one that never does, for want of room, keeps nobody waiting.
        """
        doing: dict[ObjectRef, tuple[ActorHandle, int | None]] = {a.ready.remote(): (a, None) for a in self.actors}
        todo, idle, done = deque(range(len(jobs))), list[ActorHandle](), dict[int, Measured]()
        passed_on = 0
        while passed_on < len(jobs):
            (ref,), _ = ray.wait(list(doing), num_returns=1)
            actor, index = doing.pop(ref)
            try:
                value = result(ref)
            except RayError as error:
                new = self.replace(actor, error)
                doing[new.ready.remote()] = (new, None)
                todo.extendleft([] if index is None else [index])
            else:
                idle.append(actor)
                done.update({} if index is None else {index: value})
            while passed_on in done:
                yield done.pop(passed_on)
                passed_on += 1
            while idle and todo and todo[0] < passed_on + 2 * len(self.actors):
                actor, index = idle.pop(), todo.popleft()
                doing[actor.measure.remote(*jobs[index])] = (actor, index)

    def replace(self, lost: ActorHandle, error: RayError) -> ActorHandle:
        """A new worker for a lost one. Raises `error` when too many were lost for this to be chance."""
        self.losses -= 1
        if self.losses < 0:
            raise error
        ray.kill(lost)
        self.actors.remove(lost)
        self.actors.append(self.start())
        return self.actors[-1]

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def result(ref: ObjectRef) -> Any:
    """What a worker returned. Raises its own error: UserError for a user's mistake; RayError when it was lost."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from error
