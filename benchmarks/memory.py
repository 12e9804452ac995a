"""What a training step keeps in memory, counted and not allocated: `python benchmarks/memory.py --preset lsun_cat256`.

A batch is of fake tensors, which have shapes and no contents, so any size is counted on any machine. For
each half of a step: the storages that its graph keeps for the backward pass, each once, besides the weights. What is
not counted: what operations need for a moment, convolutions' workspaces, and what an allocator cannot give back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from act_ray import settings
from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.step import Objective, TrainState, discriminator_objective, generator_objective
from act_ray.data.shards import ImageData
from act_ray.files import in_units
from act_ray.models.discriminators import build_discriminator
from act_ray.models.unet import UNet
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state


class Kept:
    """The bytes of the storages that autograd keeps, without those of `known` tensors."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.bytes = dict[int, int]()
        self.alive = list[Any]()  # or else a storage's place would be another's

    def __enter__(self) -> "Kept":
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.bytes[storage._cdata] = storage.nbytes()
            self.alive.append(storage)
        return tensor

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def state_of(cfg: Config, channels: int, size: int) -> TrainState:
    images = np.zeros((2, channels, size, size), np.uint8)
    return build_state(cfg, ImageData(images, None, 0, "", "none"), Ranks(), click.echo)


def kept_by(
    cfg: Config, state: TrainState, fake: FakeTensorMode, batch: int, channels: int, size: int
) -> dict[str, int]:
    """Bytes that each half's graph keeps for a batch, by its name."""
    networks = [net for net in (state.model, state.teacher, state.discriminator) if net is not None]
    known = [fake.from_tensor(weight) for net in networks for weight in net.parameters()]
    found, x = {}, torch.empty(batch, channels, size, size)
    labels = None if cfg.model.num_classes is None else torch.zeros(batch, dtype=torch.long)
    for name, step in (("generator", 1), ("discriminator", 1), ("discriminator, with the penalty", 0)):
        state.step = step
        half: Callable[..., Objective] = generator_objective
        if name != "generator":
            half = partial(discriminator_objective, penalise=step == 0, measure=step == 0)
        state.D.requires_grad_(name != "generator")
        with Kept(known) as kept:
            loss = half(state, x, labels, Noise(0, step, torch.device("cpu")), 10, cfg.step)
        found[name] = kept.total
        del loss
    return found


@click.command()
@click.option("--preset", default="lsun_cat256", show_default=True)
@click.option("--size", default=256, show_default=True)
@click.option("--channels", default=3, show_default=True)
@click.option("--batch", default=80, show_default=True, help="Images of one GPU.")
@click.option("--set", "changes", multiple=True, help="Settings, as of train.")
def main(preset: str, size: int, channels: int, batch: int, changes: tuple[str, ...]) -> None:
    """Print the bytes of weights and their kin, and of what the graphs keep, for a batch and for micro-batches."""
    base = {"loss.distance": "pseudo_huber", "train.global_batch": batch, **settings.parse_overrides(changes)}
    cfg = settings.load(preset, base)
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in net.parameters())
            for net in (UNet(cfg, channels, size), build_discriminator(cfg, channels, size))
        ]
    fixed = 4 * (6 * counts[0] + 4 * counts[1])
    click.echo(f"{preset}, {channels}x{size}x{size}, batch {batch}, {cfg.train.precision}, torch {torch.__version__}")
    click.echo(f"weights: G {counts[0] / 1e6:.1f} million, D {counts[1] / 1e6:.1f} million")
    click.echo(f"fixed: {in_units(fixed)} (G, theta^-, EMA, gradients, two moments; D, gradients, two moments)")
    for again in (False, True):
        cfg = settings.load(preset, {**base, "train.gradient_checkpointing": again})
        cfg = cfg.model_copy(update={"train": cfg.train.model_copy(update={"micro_batch": None})})
        state = state_of(cfg, channels, size)
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            few, more = (kept_by(cfg, state, fake, n, channels, size) for n in (4, 8))
        click.echo(f"gradient_checkpointing {'on' if again else 'off'}:")
        for name in few:
            each = (more[name] - few[name]) / 4
            click.echo(f"  {name:32} {in_units(each)} an image, {in_units(batch * each)} a batch")


if __name__ == "__main__":
    main()
