"""A generator as diffusers' ConsistencyModelPipeline, and the images that diffusers alone makes of it."""

from pathlib import Path

import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline
from diffusers.utils import logging
from torch import Tensor

from act_ray.core.consistency import Preconditioned
from act_ray.core.options import Schedule
from act_ray.export.card import SCHEDULER_STEPS
from act_ray.generators.diffusers_folder import SCHEDULER_NAMES


def write_pipeline(f: Preconditioned, clip: bool, folder: Path) -> None:
    """ConsistencyModelPipeline.save_pretrained: the network, and the scheduler that is f's preconditioning."""
    pipeline = ConsistencyModelPipeline(f.network.unet, make_scheduler(f.cfg, clip))
    pipeline.save_pretrained(folder)


def make_scheduler(cfg: Schedule, clip: bool) -> CMStochasticIterativeScheduler:
    """Its f(x, t) is ours, where the network is told 250 ln t; it starts at sigma_max = T.

    clip: clamp f to [-1, 1] at every evaluation, which shows where there are several.
    """
    values = {theirs: getattr(cfg, ours) for ours, theirs in SCHEDULER_NAMES.items()}
    low = torch.tensor(cfg.t_min)
    if low**2 - cfg.t_min**2 < 0:  # its last noise is multiplied by the root of this, one term rounded to float32: NaN
        values["sigma_min"] = float(low)
    return CMStochasticIterativeScheduler(num_train_timesteps=SCHEDULER_STEPS, clip_denoised=clip, **values)


def run_pipeline(folder: Path, labels: Tensor | None, count: int, noise: torch.Generator) -> Tensor:
    """`count` one-step images in [-1, 1] by diffusers alone, which draws their noise from `noise`."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = ConsistencyModelPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    images: Tensor = pipeline(count, labels, generator=noise, output_type="pt").images
    return images * 2 - 1
