"""Small trained models for the verbs that take a MODEL, and pictures to give them."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from PIL import Image

from act_ray import settings
from act_ray.models.unet import unet_arguments
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from tests.helpers.command import Ended
from tests.helpers.tiny_settings import DIFFUSION, FINISHED


def make_models(root: Path) -> None:
    """`run`: a class-conditional ACT run on the digits; `diffusion`: a diffusion run; `color`, `broken`: for 3x8x8."""
    run = settings.load("digits", {**FINISHED, "model.num_classes": 10})
    diffusion = settings.load("digits", {**FINISHED, "model.num_classes": 10, **DIFFUSION})
    for name, cfg in (("run", run), ("diffusion", diffusion)):
        assert [*train(cfg, RunFolder(str(root / name)), Ranks())][-1]["outcome"] == "completed"
    torch.manual_seed(0)
    unet = UNet2DModel(**unet_arguments(settings.load("digits", FINISHED), 3, 8))
    with torch.no_grad():
        unet.conv_out.weight *= 30  # answers far outside of [-1, 1]
    pipeline = ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler(clip_denoised=False))
    pipeline.save_pretrained(root / "color")
    torch.nn.init.constant_(unet.conv_out.weight, torch.nan)
    pipeline.save_pretrained(root / "broken")


def call(capfd: pytest.CaptureFixture[str], line: str) -> Ended:
    """`VERB ARGS...` on the CPU."""
    verb, *args = shlex.split(line)
    return Ended(capfd, verb, *args, *(["--cpu"] if args else []))


def picture(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 [H,W] or [H,W,3] as a file."""
    Image.fromarray(pixels).save(path)
    return path


def colors(side: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 [side,side,3], with many extreme values."""
    return np.random.default_rng(seed).choice([0, 255, *range(256)], (side, side, 3)).astype(np.uint8)


def pixels_of(path: Path, mode: str) -> np.ndarray:
    """A picture's values, of which the mode is as expected."""
    image = Image.open(path)
    assert image.mode == mode
    return np.asarray(image).astype(int)
