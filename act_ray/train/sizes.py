"""What a run's checkpoints take, on disk and on the way to an object store, before it starts."""

import torch
from torch import nn

from act_ray.config import Config
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.models.discriminators import build_discriminator
from act_ray.models.unet import UNet
from act_ray.runs.storage import storage_is_local


def checkpoint_bytes(cfg: Config, channels: int, size: int) -> int:
    """The tensors of one: theta, theta^- and the slow average, D, and two moments of each weight that is trained."""
    with torch.device("meta"):  # shapes alone
        generator = UNet(cfg, channels, size)
    total = 5 * tensor_bytes(generator)
    if cfg.adversarial:
        on = "cpu" if cfg.discriminator.kind == "projected" else "meta"  # whose feature network is read from a file
        with torch.device(on):
            D = build_discriminator(cfg, channels, size)
        total += tensor_bytes(D) + 2 * sum(w.nbytes for w in D.parameters() if w.requires_grad)
    return total


def tensor_bytes(module: nn.Module) -> int:
    """All its parameters and buffers."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def checkpoints_written(cfg: Config) -> int:
    """How many at most: one every `checkpoint.every` steps, one for each score that may be the best, one at the end."""
    last = cfg.train.total_steps
    steps = {last, *range(cfg.checkpoint.every, last, cfg.checkpoint.every)}
    if cfg.eval.features != "none":
        steps |= {*range(cfg.eval.every, last, cfg.eval.every)}
    return len(steps)


def describe_uploads(cfg: Config, location: str) -> list[str]:
    """What a run uploads at most; nothing for a folder of this machine, or where the data is not on it."""
    if storage_is_local(location):
        return []
    try:
        _, channels, size, _ = open_data(cfg.data.path, cfg.data.decode).images.shape
        one = checkpoint_bytes(cfg, channels, size)
    except UserError:
        return []
    count, kept = checkpoints_written(cfg), cfg.checkpoint.keep + 1 + cfg.checkpoint.good
    return [
        f"uploads: a checkpoint takes {in_units(one)}; at most {count:,} in the whole run: {in_units(one * count)}; "
        f"{kept} at most stay there"
    ]
