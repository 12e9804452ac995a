"""What a search's checkpoints take, before it starts."""

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from act_ray.config import Config
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.models.discriminators import build_discriminator
from act_ray.models.unet import UNet
from act_ray.runs.storage import storage_is_local
from act_ray.tune.kinds import endpoints
from act_ray.tune.space import Space

MOST = 64  # combinations that are looked at


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


def describe_disk(space: Space, location: str) -> list[str]:
    """What the trials' checkpoints take at most, and what is free; nothing where the data is not on this machine."""
    try:
        cfg = space.example()
        data = open_data(cfg.data.path, cfg.data.decode)
        _, channels, size, _ = data.images.shape
        one = max(checkpoint_bytes(cfg, channels, size) for cfg in networks(space))
    except UserError:
        return []
    kept = space.example().checkpoint
    count = kept.keep + 1 + kept.good
    total = one * count * space.trials
    line = (
        f"disk: a checkpoint takes {in_units(one)}; {count} at most of each of {space.trials} trials (the last, the "
        f"best, and those from before a collapse): {in_units(total)}"
    )
    if not storage_is_local(location):
        return [line]
    there = Path(location.removeprefix("file://"))
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    short = "; THAT IS NOT ENOUGH: lower checkpoint.keep or checkpoint.good" if free < total else ""
    return [f"{line}, and {in_units(free)} are free{short}"]


def networks(space: Space) -> Iterator[Config]:
    """A config for each combination of the ends of what the networks hang on, as far as the space admits it."""
    names = [name for name in space.specs if name.startswith(("model.", "discriminator.", "loss.w"))]
    ends = itertools.product(*(dict.fromkeys(map(json.dumps, endpoints(*space.specs[name]))) for name in names))
    yield space.example()
    for values in itertools.islice(ends, MOST):
        with contextlib.suppress(UserError):
            yield space.example({name: json.loads(value) for name, value in zip(names, values, strict=True)})
