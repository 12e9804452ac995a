"""Images between the networks' [-1, 1] and the bytes that people see: conversion, grids, PNG files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from act_ray.files import replace_atomically


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> {0..255}, rounded to the nearest."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """{0..255} -> [-1, 1], float32."""
    return images.float() / 127.5 - 1


def grid_image(images: np.ndarray, columns: int = 8, scale: int | None = None) -> Image.Image:
    """uint8 [n,C,H,W] as one picture with a margin of a pixel; small images are enlarged to be seen."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, c), 40, np.uint8)
    for i, image in enumerate(images):
        top, left = 1 + (i // columns) * (h + 1), 1 + (i % columns) * (w + 1)
        canvas[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    picture = Image.fromarray(canvas.squeeze(-1) if c == 1 else canvas).convert("RGB")
    scale = scale or max(1, 48 // h)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def save_grid(images: Tensor, path: Path) -> None:
    """Write a grid of uint8 [n,C,H,W] as PNG."""
    grid_image(images.numpy()).save(path)


def to_picture(image: np.ndarray) -> Image.Image:
    """uint8 [C,H,W] as grey or RGB."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG, atomically, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
