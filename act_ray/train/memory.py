"""A GPU that is too small: one line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.models.discriminators.stylegan2 import group_size


@contextmanager
def needing_memory(what: str, remedy: str) -> Iterator[None]:
    """Raises UserError where the GPU's memory runs out in the block. what: the setting that decides it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = ". ".join(" ".join(str(error).split()).split(". ")[:3])  # what was wanted, and what there is
        raise UserError(f"{what}: needs more memory than the GPU has: {said.rstrip('.')}; {remedy}") from None


def smaller_micro_batch(cfg: Config, world: int) -> int | None:
    """The largest train.micro_batch that halves what is in memory at a time on one of `world` workers, if any does."""
    share = cfg.train.global_batch // world
    step = 2 * (group_size(cfg.train.global_batch) if cfg.discriminator.kind == "stylegan2" else 1)
    half = (cfg.train.micro_batch or share) // 2
    return max((n for n in range(step, half + 1, step) if share % n == 0), default=None)


def training(cfg: Config, world: int) -> tuple[str, str]:
    """What decides how much a step takes on one of `world` workers, and what takes half or less of it."""
    micro = cfg.train.micro_batch
    what = f"train.global_batch = {cfg.train.global_batch}" if micro is None else f"train.micro_batch = {micro}"
    if (less := smaller_micro_batch(cfg, world)) is not None:
        same = cfg.discriminator.kind != "projected" and not cfg.model.dropout  # docs/performance.md
        return what, f"try train.micro_batch={less}{', which changes no number' if same else ''}"
    if not cfg.train.gradient_checkpointing:
        return what, "it cannot be less; try train.gradient_checkpointing=true"
    return what, "it cannot be less; try smaller model.block_out_channels"


def scoring(cfg: Config) -> tuple[str, str]:
    """The same of a score."""
    half = cfg.eval.batch // 2
    return f"eval.batch = {cfg.eval.batch}", f"try {half}" if half else "try smaller model.block_out_channels"
