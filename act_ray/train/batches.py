"""The images of a training step: which they are, and this worker's share of them on its device."""

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
    index, batch = step_indices(cfg, len(data.images), step), cfg.train.global_batch
    noise = None
    if cfg.data.flip:  # two generators, which other runs need not make at every step
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world).branch("flip")
    mine = [np.split(part, ranks.world)[ranks.rank] for part in (index[:batch], index[batch:])]
    for_g = gather(data, cfg, mine[0], noise, ranks.device)
    return for_g, gather(data, cfg, mine[1], noise, ranks.device) if len(mine[1]) else None


def gather(data: ImageData, cfg: Config, index: NDArray[np.int64], noise: Noise | None, device: torch.device) -> Images:
    """Images by their numbers, on the device, mirrored where that is drawn."""
    x = from_uint8(to_device(data.images[index], device))
    if noise is not None:
        x = torch.where(noise.uniform(len(x)).view(-1, 1, 1, 1) < 0.5, x.flip(3), x)
    if cfg.model.num_classes is None:
        return x, None
    assert data.labels is not None
    return x, to_device(data.labels[index], device)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; to a GPU from pinned memory, for only that copy does not wait for what is queued."""
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
