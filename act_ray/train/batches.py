"""The images of a training step: which they are, and this worker's share of them on its device."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.step import Images
from act_ray.data.sampler import batch_indices, subset_indices
from act_ray.data.shards import ImageData
from act_ray.pictures import from_uint8
from act_ray.train.ranks import Ranks

Pixels = tuple[NDArray[np.uint8], NDArray[np.int64] | None]
AHEAD = 2  # batches that are read before their step


class Batches:
    """`with Batches(data, cfg, ranks) as batches: batches.fetch(step)`: what `fetch` gives, read in the background.

    While a step computes, a thread reads the images of the next ones. Which they are depends on the step's number
    alone, so that nothing about a run, or about one that goes on, depends on how far the reading has come.
    """

    def __init__(self, data: ImageData, cfg: Config, ranks: Ranks) -> None:
        self.data, self.cfg, self.ranks = data, cfg, ranks
        self.thread = ThreadPoolExecutor(1, "batches")
        self.pending = dict[int, Future[list[Pixels]]]()

    def fetch(self, step: int) -> tuple[Images, Images | None]:
        """The images of a step; raises what reading them raised."""
        for ahead in range(step, min(step + AHEAD, self.cfg.train.total_steps - 1) + 1):
            if ahead not in self.pending:
                self.pending[ahead] = self.thread.submit(read, self.data, self.cfg, ahead, self.ranks)
        return place(self.cfg, self.pending.pop(step).result(), step, self.ranks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.thread.shutdown(cancel_futures=True)


def step_indices(cfg: Config, n: int, step: int) -> NDArray[np.int64]:
    """The numbers, out of n images, of the B images of the generator, and behind them of D's own where it has any."""
    own = cfg.adversarial and cfg.train.discriminator_images == "own"
    batch = (2 if own else 1) * cfg.train.global_batch
    if cfg.data.subset is None and not cfg.data.held_out:
        return batch_indices(n, batch, cfg.train.seed, step)
    trained_on = training_indices(cfg, n)
    return trained_on[batch_indices(len(trained_on), batch, cfg.train.seed, step)]


def held_out_count(cfg: Config, n: int) -> int:
    """How many of n images are kept back from training."""
    return round(cfg.data.held_out * (cfg.data.subset or n))


def training_indices(cfg: Config, n: int) -> NDArray[np.int64]:
    """The numbers of the images that are trained on, a function of the settings alone."""
    used = subset_indices(n, cfg.data.subset or n)
    return used[: len(used) - held_out_count(cfg, n)]


def held_out_indices(cfg: Config, n: int) -> NDArray[np.int64]:
    """The numbers of those that are kept back."""
    used = subset_indices(n, cfg.data.subset or n)
    return used[len(used) - held_out_count(cfg, n) :]


def fetch(data: ImageData, cfg: Config, step: int, ranks: Ranks) -> tuple[Images, Images | None]:
    """This worker's share of a step's images, for the generator and, where it has its own, for D.

    x [B/W,C,H,W] in [-1, 1], and labels [B/W] where they are used. With D's own images a step takes 2B of the data.
    """
    return place(cfg, read(data, cfg, step, ranks), step, ranks)


def read(data: ImageData, cfg: Config, step: int, ranks: Ranks) -> list[Pixels]:
    """This worker's share of a step's images as they lie in the data, a function of (settings, step) alone."""
    index, batch = step_indices(cfg, len(data.images), step), cfg.train.global_batch
    mine = [np.split(part, ranks.world)[ranks.rank] for part in (index[:batch], index[batch:])]
    return [pixels(data, cfg, part) for part in mine if len(part)]


def place(cfg: Config, parts: list[Pixels], step: int, ranks: Ranks) -> tuple[Images, Images | None]:
    """What was read, on the device, and mirrored where that is drawn."""
    noise = None
    if cfg.data.flip:  # two generators, which other runs need not make at every step
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world).branch("flip")
    images = [to_images(part, noise, ranks.device) for part in parts]
    return images[0], images[1] if len(images) > 1 else None


def gather(data: ImageData, cfg: Config, index: NDArray[np.int64], noise: Noise | None, device: torch.device) -> Images:
    """Images by their numbers, on the device, mirrored where that is drawn."""
    return to_images(pixels(data, cfg, index), noise, device)


def pixels(data: ImageData, cfg: Config, index: NDArray[np.int64]) -> Pixels:
    """Images by their numbers, uint8 [B,C,H,W], and their labels where they are used."""
    if cfg.model.num_classes is None:
        return data.images[index], None
    assert data.labels is not None
    return data.images[index], data.labels[index]


def to_images(part: Pixels, noise: Noise | None, device: torch.device) -> Images:
    """In [-1, 1], on the device."""
    x = from_uint8(to_device(part[0], device))
    if noise is not None:
        x = torch.where(noise.uniform(len(x)).view(-1, 1, 1, 1) < 0.5, x.flip(3), x)
    return x, None if part[1] is None else to_device(part[1], device)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; to a GPU from pinned memory, for only that copy does not wait for what is queued."""
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
