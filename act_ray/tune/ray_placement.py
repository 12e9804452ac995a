"""How many trials run at a time, and what each takes of the cluster."""

from dataclasses import dataclass, field

import ray

from act_ray.errors import UserError
from act_ray.ray_autoscaler import Largest, largest
from act_ray.ray_cluster import TRIAL_SLOT


@dataclass(frozen=True)
class Placement:
    """What a trial takes, how many run at a time, and the CPU threads for each of their workers.

    bundle: what each of its `need` processes that train takes of one node. grows: whether nodes come when it is wanted.
    """

    resources: dict[str, float]
    concurrent: int
    gpu: bool
    threads: int | None
    why: str
    bundle: dict[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    need: int = 1
    grows: bool = False

    @property
    def takes(self) -> str:
        """`2 CPUs`."""
        return counted(self.need, "GPU" if self.gpu else "CPU")


def counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count != 1 else ''}"


def placement(workers: int, concurrent: int | None, asked: bool | None = None) -> Placement:
    """Fit trials into the cluster, as large as it can become. Raises UserError, with the numbers, for what never fits.

    A trial with Ray Train workers has a driver besides; it takes a trial_slot of the head node where there are some
    (ours, and the shipped clusters), or a sliver of a CPU. asked: for GPUs (True) or CPUs; None takes GPUs where there
    are some. Where it cannot be known how far the cluster grows, its trial_slots say how many trials that is for.
    """
    have, full = ray.cluster_resources(), largest()
    cpus, gpus, slots = int(have.get("CPU", 0)), int(have.get("GPU", 0)), int(have.get(TRIAL_SLOT, 0))
    if asked is not None:
        gpu = asked
    elif full is not None:
        gpu = full.holds({"GPU": 1}) > 0
    else:
        gpu = gpus > 0 or (cpus == 0 and slots > 0)  # shipped clusters grow by GPUs
    unit, each = ("GPU", gpus) if gpu else ("CPU", cpus)
    bundle = {unit: 1.0} if workers else {"CPU": 1.0, unit: 1.0}  # as Ray Train has it for its workers
    need = max(1, workers)
    driver: dict[str, float] = {TRIAL_SLOT: 1} if slots else {"CPU": 0.01}
    resources = driver if workers else bundle
    grows = full is not None or (slots > 0 and (each == 0 or len(ray.nodes()) > 1))
    if full is not None:
        fit = full.holds(bundle) // need
        fit = min(fit, slots) if slots and workers else fit
        here = f"{each} here, at most {full.holds(bundle)}"
    else:
        fit, here = slots if grows else each // need, f"{each} here"
    if fit == 0:
        raise too_large(workers, asked, unit, each if full is None else full.holds(bundle), full)
    running = min(concurrent or fit, fit)
    why = f"{running} at a time ({'up to ' if grows else ''}{fit} fit: {counted(need, unit)} per trial, {here})"
    threads = None if grows else max(1, cpus // (running * need))
    return Placement(resources, running, gpu, threads, why, bundle, need, grows)


def too_large(workers: int, asked: bool | None, unit: str, most: int, full: Largest | None) -> UserError:
    """For trials of which the cluster can hold none: it has, or grows to, `most` units."""
    has = f"has {most}" if full is None else f"grows to {most} ({full})"
    if asked:
        return UserError(f"--gpu: a trial needs {counted(max(1, workers), unit)}, the cluster {has}; try --cpu")
    return UserError(
        f"--workers-per-trial {workers}: a trial needs {counted(max(1, workers), unit)}, the cluster {has}; "
        f"at most {most} workers per trial"
    )
