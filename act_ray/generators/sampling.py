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

NOISE_SEED = 2311_14097  # fixed: grids and scores of all runs start from the same noise


def draw_batch(
    model: nn.Module,
    cfg: Config,
    shape: Sequence[int],
    label_counts: Sequence[int] | None,
    index: int,
    size: int,
    device: torch.device,
    *,
    seed: int = NOISE_SEED,
    levels: Sequence[float] = (),
    first: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Batch `index` of the samples that `seed` gives: images [size,C,H,W] in about [-1, 1] and labels [size].

    A function of index, seed and size alone. first: evaluate only that many of the batch.

    One evaluation, and one more for each of `levels` (CM Algorithm 1); a denoiser's ODE in `eval.ode_steps` steps.
    label_counts: images per class in the data, whose frequencies the labels of a class-conditional model follow.
    """
    rng, few = np.random.default_rng([seed, index]), slice(first)

    def noise() -> Tensor:
        return torch.from_numpy(rng.standard_normal((size, *shape), dtype=np.float32)[few]).to(device)

    z, labels = noise(), None
    if cfg.model.num_classes is not None:
        counts = np.ones(cfg.model.num_classes) if label_counts is None else np.asarray(label_counts, float)
        labels = torch.from_numpy(rng.choice(len(counts), size, p=counts / counts.sum())[few]).to(device)
    if cfg.train.method == "diffusion":
        return sample_ode(model, z, cfg.eval.ode_steps, cfg.step.schedule, labels), labels
    return multistep(model, [z, *(noise() for _ in levels)], levels, cfg.step.schedule, labels), labels


def first_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """The noise [C,H,W] of the first image of `draw_batch` with this seed, whatever the size of its batch."""
    return torch.from_numpy(np.random.default_rng([seed, 0]).standard_normal(shape, dtype=np.float32))


def check_label(generator: Generator, label: int | None) -> None:
    """Raises UserError for a label that the model does not have."""
    classes = generator.cfg.model.num_classes
    if label is not None and classes is None:
        raise UserError(f"--label {label}: {generator.origin} knows no classes")
    if label is not None and classes is not None and not 0 <= label < classes:
        raise UserError(f"--label {label}: {generator.origin} has the classes 0 to {classes - 1}")


def require_finite(generator: Generator, images: Tensor) -> None:
    """Raises UserError for values that would turn into a black image."""
    if not images.isfinite().all():
        raise UserError(f"{generator.origin}: its images are not finite; the model is broken")
