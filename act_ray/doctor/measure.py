"""Real training steps, forward and backward at the batch asked: what they take of memory and time."""

import gc
import time
from dataclasses import dataclass
from statistics import median

import torch

from act_ray import settings
from act_ray.config import Config
from act_ray.core.diffusion import diffusion_step
from act_ray.core.noise import Noise
from act_ray.core.step import train_step
from act_ray.data.shards import ImageData
from act_ray.device import best_device, prepare_process
from act_ray.doctor.machine import peak_memory
from act_ray.errors import UserError
from act_ray.train.batches import fetch
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

NO_MEMORY = ("t allocate memory", "could not create a primitive")  # on a CPU; the second is oneDNN's
MEASURE_S = 3.0  # of steps; at least one is made


@dataclass(frozen=True)
class Measured:
    """seconds: of a step. steps: how many were made. memory: the process's peak, in bytes; gpu: that on the GPU."""

    seconds: float
    steps: int
    memory: int
    gpu: int | None


class OutOfMemory(Exception):
    """The machine, or the GPU, has not enough for one step."""


def one_share(cfg: Config, workers: int) -> Config:
    """The settings of what one worker does of each step; never compiled, which takes minutes."""
    changes = {"train.global_batch": cfg.train.global_batch // max(1, workers), "train.compile": False}
    return settings.with_changes(cfg, changes, "doctor")


def measure(cfg: Config, data: ImageData, workers: int, gpu: bool | None) -> Measured:
    """Make steps as train/loop.py does, of one worker's share. Raises UserError, OutOfMemory."""
    cfg, device = one_share(cfg, workers), best_device(gpu)
    prepare_process(cfg, 1 if device.type == "cuda" else workers)
    too_much = None
    try:
        seconds, steps = _steps(cfg, data, Ranks(device))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(w in str(error) for w in NO_MEMORY):
            raise
        too_much = next(iter(str(error).splitlines()), "")
    if too_much is not None:  # raised here: the error above would keep all that the step had in memory
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        raise OutOfMemory(too_much)
    return Measured(
        seconds, steps, peak_memory() or 0, torch.cuda.max_memory_reserved() if device.type == "cuda" else None
    )


def _steps(cfg: Config, data: ImageData, ranks: Ranks) -> tuple[float, int]:
    """Seconds of a step, and how many were made."""
    state = build_state(cfg, data, ranks, lambda line: None)
    took, begun = list[float](), time.monotonic()
    while not took or time.monotonic() - begun < MEASURE_S:
        started, k = time.monotonic(), state.step
        (x, labels), own = fetch(data, cfg, k, ranks)
        noise = Noise(cfg.train.seed, k, ranks.device, ranks.rank, ranks.world)
        if cfg.train.method == "diffusion":
            diffusion_step(state, x, labels, noise, cfg.step)
        else:
            train_step(state, x, labels, noise, cfg.step, ranks.mean, own)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.monotonic() - started)
    return average(took, cfg.loss.gp_interval if cfg.adversarial and cfg.loss.gp_weight > 0 else 1), len(took)


def average(took: list[float], interval: int) -> float:
    """Seconds of a step over a whole `interval`, of which one step has the gradient penalty.

    took: of steps 0, 1, ...; step 0 has the penalty, and what happens only once. So it counts only where there is no
    other of its kind.
    """
    if len(took) == 1:
        return took[0]
    penalty = [seconds for k, seconds in enumerate(took) if k and k % interval == 0] or took[:1]
    plain = [seconds for k, seconds in enumerate(took) if k % interval] or penalty
    return (median(penalty) + (interval - 1) * median(plain)) / interval


def measurable(cfg: Config) -> tuple[Config, str]:
    """The settings without weights that are not there, and what that leaves out."""
    from act_ray.models.perceptual import require_weights

    left_out = ""
    if cfg.loss.distance == "lpips" and cfg.consistent:
        try:
            require_weights(cfg.loss)
        except UserError:
            cfg, left_out = settings.with_changes(cfg, {"loss.distance": "pseudo_huber"}, "doctor"), " without LPIPS"
    if cfg.adversarial and cfg.discriminator.kind == "projected":  # their values change neither time nor memory
        cfg = settings.with_changes(cfg, {"discriminator.feature_weights": "random"}, "doctor")
    return cfg, left_out
