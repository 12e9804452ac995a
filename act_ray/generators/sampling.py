"""Samples of a generator: batch i of a seed, the same images whoever asks for them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from act_ray.config import Config
from act_ray.core.consistency import multistep
from act_ray.core.diffusion import sample_ode
from act_ray.errors import UserError
from act_ray.generators.generator import Generator
from act_ray.pictures import to_uint8

NOISE_SEED = 2311_14097  # fixed: grids and scores of all runs start from the same noise


def sample_batch(
    model: nn.Module,
    cfg: Config,
    shape: Sequence[int],
    classes: Sequence[int] | None,
    index: int,
    size: int,
    device: torch.device,
    *,
    levels: Sequence[float] = (),
) -> Tensor:
    """Batch `index` of the fixed samples, uint8 [size,C,H,W], as `draw_batch` makes them."""
    return to_uint8(draw_batch(model, cfg, shape, classes, index, size, device, levels=levels)[0])


def draw_batch(
    model: nn.Module,
    cfg: Config,
    shape: Sequence[int],
    classes: Sequence[int] | None,
    index: int,
    size: int,
    device: torch.device,
    *,
    seed: int = NOISE_SEED,
    levels: Sequence[float] = (),
) -> tuple[Tensor, Tensor | None]:
    """Batch `index` of the samples that `seed` gives: images [size,C,H,W] in about [-1, 1] and labels [size].

    A function of index, seed and size alone.

    One evaluation, and one more for each of `levels` (CM Algorithm 1); a diffusion run's ODE in `eval.ode_steps` steps.
    classes: images per class in the data, whose frequencies the labels of a class-conditional model follow.
    """
    rng = np.random.default_rng([seed, index])

    def noise() -> Tensor:
        return torch.from_numpy(rng.standard_normal((size, *shape), dtype=np.float32)).to(device)

    z, labels = noise(), None
    if cfg.model.num_classes is not None:
        counts = np.ones(cfg.model.num_classes) if classes is None else np.asarray(classes, float)
        labels = torch.from_numpy(rng.choice(len(counts), size, p=counts / counts.sum())).to(device)
    if cfg.train.method == "diffusion":
        return sample_ode(model, z, cfg.eval.ode_steps, cfg.step.schedule, labels), labels
    return multistep(model, [z, *(noise() for _ in levels)], levels, cfg.step.schedule, labels), labels


def check_label(source: Generator, label: int | None) -> None:
    """Raises UserError for a label that the model does not have."""
    classes = source.cfg.model.num_classes
    if label is not None and classes is None:
        raise UserError(f"--label {label}: {source.source} knows no classes")
    if label is not None and classes is not None and not 0 <= label < classes:
        raise UserError(f"--label {label}: {source.source} has the classes 0 to {classes - 1}")


def require_finite(source: Generator, images: Tensor) -> None:
    """Raises UserError for values that would turn into a black image."""
    if not images.isfinite().all():
        raise UserError(f"{source.source}: its images are not finite; the model is broken")
