"""How many trials run at a time, and what each takes of the cluster."""

from dataclasses import dataclass

import ray

from act_ray.errors import UserError
from act_ray.ray_cluster import TRIAL_SLOT


@dataclass(frozen=True)
class Placement:
    """What a trial takes, how many run at a time, and the CPU threads for each of their workers."""

    resources: dict[str, float]
    concurrent: int
    gpu: bool
    threads: int | None
    why: str


def placement(workers: int, concurrent: int | None, asked: bool | None = None) -> Placement:
    """Fit trials into the cluster. Raises UserError, naming both numbers, for what can never run.

    A trial with Ray Train workers has a driver besides; it takes a trial_slot of the head node where there are some
    (ours, and the shipped clusters), or a sliver of a CPU. asked: for GPUs (True) or CPUs; None takes GPUs where there
    are some.
    """
    have = ray.cluster_resources()
    cpus, gpus, slots = int(have.get("CPU", 0)), int(have.get("GPU", 0)), int(have.get(TRIAL_SLOT, 0))
    gpu = asked if asked is not None else gpus > 0 or (cpus == 0 and slots > 0)  # shipped clusters grow by GPUs
    unit, each = ("GPU", gpus) if gpu else ("CPU", cpus)
    need = max(1, workers)
    takes = f"{need} {unit}{'s' if need > 1 else ''}"
    grows = slots > 0 and (each == 0 or len(ray.nodes()) > 1)  # its slots say how many trials its full size holds
    fit = slots if grows else each // need
    if fit == 0 and asked:
        raise UserError(f"--gpu: a trial needs {takes}, the cluster has {each}; try --cpu")
    if fit == 0:
        raise UserError(
            f"--workers-per-trial {workers}: a trial needs {takes}, the cluster has {each}; "
            f"at most {each} workers per trial"
        )
    running = min(concurrent or fit, fit)
    driver: dict[str, float] = {TRIAL_SLOT: 1} if slots else {"CPU": 0.01}
    resources = {"CPU": 1.0, **({"GPU": 1.0} if gpu else {})} if workers == 0 else driver
    why = f"{running} at a time ({'up to ' if grows else ''}{fit} fit: {takes} per trial, {each} here)"
    threads = None if grows else max(1, cpus // (running * need))
    return Placement(resources, running, gpu, threads, why)
