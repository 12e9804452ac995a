"""Images in rows and columns as one picture, on an axis of its own."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor


class Mosaic:
    """Images uint8 [rows,columns,C,H,W] as one picture with white gaps; the gap is wider after each `group` rows.

    One picture rather than an axis per image: a grid of axes takes seconds to lay out.
    """

    def __init__(self, images: Tensor, group: int | None = None) -> None:
        pixels: NDArray[np.uint8] = images.expand(-1, -1, 3, -1, -1).permute(0, 1, 3, 4, 2).numpy()
        rows, columns, h, w, _ = pixels.shape
        scale = max(1, 64 // h)  # enlarged here: what shows the file might blur single pixels
        pixels = pixels.repeat(scale, 2).repeat(scale, 3)
        h, w = h * scale, w * scale
        gap = max(1, h // 12)
        tops = [r * (h + gap) + (r // group * 2 * gap if group else 0) for r in range(rows)]
        lefts = [c * (w + gap) for c in range(columns)]
        self.canvas = np.full((tops[-1] + h, lefts[-1] + w, 3), 255, np.uint8)
        for top, line in zip(tops, pixels, strict=True):
            for left, image in zip(lefts, line, strict=True):
                self.canvas[top : top + h, left : left + w] = image
        self.aspect = self.canvas.shape[0] / self.canvas.shape[1]
        self.centres_x = [left + (w - 1) / 2 for left in lefts]
        self.centres_y = [top + (h - 1) / 2 for top in tops]

    def figure(self, width: float) -> tuple[Figure, Axes]:
        """A figure of this alone."""
        figure = Figure(figsize=(width, width * self.aspect), layout="constrained")
        axis = figure.subplots()
        self.show(axis)
        return figure, axis

    def show(self, axis: Axes) -> None:
        """Draw it, without ticks and frame."""
        axis.imshow(self.canvas, aspect="equal")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)

    def columns(self, axis: Axes, texts: Sequence[str], label: str = "") -> None:
        """Texts above the columns."""
        top = axis.secondary_xaxis("top")
        top.set_xticks(self.centres_x, texts)
        top.tick_params(length=0)
        top.spines[:].set_visible(False)
        top.set_xlabel(label)

    def rows(self, axis: Axes, texts: Sequence[str]) -> None:
        """Texts to the left of the rows."""
        axis.set_yticks(self.centres_y, texts)
        axis.tick_params(axis="y", length=0)
