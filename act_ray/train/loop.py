"""The training loop: a generator of reports, so that a terminal, Ray Train and Ray Tune can all drive it."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from act_ray.config import Config
from act_ray.core.diffusion import diffusion_step
from act_ray.core.noise import Noise
from act_ray.core.step import Images, train_step
from act_ray.data.sampler import batch_indices, subset_indices
from act_ray.data.shards import ImageData
from act_ray.device import best_device, prepare_process
from act_ray.outcomes import RunOutcome
from act_ray.pictures import from_uint8
from act_ray.runs.folder import RunFolder
from act_ray.train.ranks import Ranks
from act_ray.train.run import Report, TrainingRun


def train(cfg: Config, folder: RunFolder, ranks: Ranks) -> Iterator[Report]:
    """Train to `train.total_steps`, from the newest whole checkpoint in `folder` where there is one.

    Yields a report after every evaluation and one at the end, the same on every worker; only the last has an `outcome`:
    completed, stopped (asked to: folder.request_stop) or pruned (a signature of collapse, in `prune`).
    """
    with closing(folder):
        yield from loop(TrainingRun(cfg, folder, ranks))


def loop(run: TrainingRun) -> Iterator[Report]:
    """Train from the run's current step to its end; in each round: evaluate, save, report, step."""
    cfg, ranks = run.cfg, run.ranks
    while True:
        step, report = run.state.step, None
        ending = run.ending()
        if step % cfg.eval.every == 0 or step % cfg.checkpoint.every == 0 or ending:
            run.flush()
            run.check_weights()
            ending = run.ending()
        sound = step > run.resumed_at and not run.detector.diverged
        if sound and (step % cfg.eval.every == 0 or ending == RunOutcome.COMPLETED):
            report = run.evaluate()
            ending = run.ending()
        if sound and not run.detector.diverged and (step % cfg.checkpoint.every == 0 or ending or run.improved):
            run.save()
        if ending:
            yield run.finish(ending)
            return
        if report is not None:
            try:
                yield report
            except GeneratorExit:  # the caller closed the loop
                run.leave()
                raise

        (x, labels), own = fetch(run.data, cfg, step, ranks)
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world)
        if cfg.model.dropout:  # its masks come from torch's global generator, so they do depend on the workers
            torch.manual_seed(noise.generator.initial_seed() + ranks.rank)
        if cfg.train.method == "diffusion":
            run.record(diffusion_step(run.state, x, labels, noise, cfg.step))
        else:
            run.record(train_step(run.state, x, labels, noise, cfg.step, ranks.mean, own))
        if run.state.step % cfg.train.log_every == 0:
            run.flush()


def fetch(data: ImageData, cfg: Config, step: int, ranks: Ranks) -> tuple[Images, Images | None]:
    """This worker's share of a step's images, for the generator and, where it has its own, for D.

    x [B/W,C,H,W] in [-1, 1], and labels [B/W] where they are used. With D's own images a step takes 2B of the data.
    """
    n, batch = len(data.images), cfg.train.global_batch
    own = cfg.adversarial and cfg.train.discriminator_images == "own"
    index = batch_indices(cfg.data.subset or n, 2 * batch if own else batch, cfg.train.seed, step)
    if cfg.data.subset is not None:
        index = subset_indices(n, cfg.data.subset)[index]
    noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world).branch("flip")
    mine = [np.split(part, ranks.world)[ranks.rank] for part in (index[:batch], index[batch:])]
    for_g = gather(data, cfg, mine[0], noise, ranks.device)
    return for_g, gather(data, cfg, mine[1], noise, ranks.device) if own else None


def gather(data: ImageData, cfg: Config, index: NDArray[np.int64], noise: Noise, device: torch.device) -> Images:
    """Images by their numbers, on the device, mirrored where that is drawn."""
    x = from_uint8(to_device(data.images[index], device))
    if cfg.data.flip:
        x = torch.where(noise.uniform(len(x)).view(-1, 1, 1, 1) < 0.5, x.flip(3), x)
    if cfg.model.num_classes is None:
        return x, None
    assert data.labels is not None
    return x, to_device(data.labels[index], device)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; to a GPU from pinned memory, for only that copy does not wait for what is queued."""
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def train_here(cfg: Config, location: str, gpu: bool | None = None) -> Report:
    """Train in this process, without Ray; returns the last report. gpu: None takes one where there is one."""
    device = best_device(gpu)
    prepare_process(cfg, 1)
    *_, last = train(cfg, RunFolder(location), Ranks(device))
    return last
