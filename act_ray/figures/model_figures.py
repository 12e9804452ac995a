"""What a trained model makes, the paper's Figs. 1, 2, 3, 6 and 7."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from act_ray.core.consistency import Preconditioned
from act_ray.core.editing import editing_levels, inpaint
from act_ray.core.noise import Noise
from act_ray.core.schedule import noise_level, num_levels
from act_ray.data.shards import ImageData
from act_ray.edit.request import masked, pattern_mask
from act_ray.figures.mosaic import Mosaic
from act_ray.figures.style import COLOURS, GREY, WIDTH, Missing
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.sampling import NOISE_SEED, draw_batch
from act_ray.metrics.diversity import spread
from act_ray.pictures import from_uint8, to_uint8

GRID = 8  # samples per row and column
INPAINTED, FILLS, EDIT_STEPS = 6, 4, 18
TRAJECTORY_LEVELS = 10  # noise levels along a trajectory, as in the paper
TRAJECTORIES, SHOWN = 3, 12  # images shown along a trajectory and per noise level
OVER = 64  # images that their distances are means over


@dataclass(frozen=True)
class Subject:
    """A trained network beside the images of its data."""

    generator: Generator
    model: Preconditioned
    data: ImageData
    device: torch.device

    def real(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The same `count` images each time, [n,C,H,W] in [-1, 1], and their labels where the model takes any."""
        count = min(count, len(self.data.images))
        index = np.random.default_rng(NOISE_SEED).permutation(len(self.data.images))[:count]
        x = from_uint8(torch.tensor(self.data.images[index], device=self.device))
        if self.generator.cfg.model.num_classes is None or self.data.labels is None:
            return x, None
        return x, torch.tensor(self.data.labels[index], device=self.device)

    def along(self, t: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x_t, f(x_t, t)) with x_t = x + t z of the first `count` real images, each [n,C,H,W], for each level of t.

        z is an image's own, the same at all levels.
        """
        x, labels = self.real(count)
        z = Noise(NOISE_SEED, 0, self.device).normal(*x.shape)
        size = self.generator.cfg.eval.batch
        for level in t:
            x_t = x + level * z
            parts = (slice(i, i + size) for i in range(0, len(x), size))
            with torch.no_grad():
                f = [
                    self.model(x_t[part], level.expand(len(x_t[part])), labels if labels is None else labels[part])
                    for part in parts
                ]
            yield x_t, torch.cat(f)

    def levels(self, count: int) -> Tensor:
        """t at `count` equidistant j of {1..N-1} of the last grid, all of them where there are fewer; ascending."""
        self.require_consistency()
        cfg = self.generator.cfg
        N = num_levels(cfg.train.total_steps, cfg.train.total_steps, cfg.step.schedule)
        j = torch.linspace(1, N - 1, min(count, N - 1)).round()
        return noise_level(j, N, cfg.step.schedule).to(self.device)

    def require_consistency(self) -> None:
        """Raise Missing for a denoiser: these figures are about f."""
        if self.generator.kind is Kind.DENOISER:
            raise Missing("a diffusion run has no consistency function")


# ---------------------------------------------------------------------------------------------- the figures


def draw_samples(subject: Subject) -> Figure:
    """Fig. 3: samples from the noise that all scores start from, beside real images."""
    generator = subject.generator
    drawn = draw_batch(
        subject.model, generator.cfg, generator.shape, generator.label_counts, 0, GRID**2, subject.device
    )[0]
    samples = to_uint8(drawn).cpu()
    real = to_uint8(subject.real(GRID**2)[0]).cpu()
    kind = "One-step samples"
    if generator.kind is Kind.DENOISER:
        kind = f"Samples ({2 * generator.cfg.eval.ode_steps - 1} evaluations)"
    figure = Figure(figsize=(WIDTH, WIDTH / 2 + 0.1), layout="constrained")
    for axis, title, images in zip(figure.subplots(1, 2), (kind, "Real images"), (samples, real), strict=True):
        Mosaic(images.reshape(-1, GRID, *generator.shape)).show(axis)
        axis.set_title(title)
    return figure


def draw_inpainting(subject: Subject) -> Figure:
    """Fig. 2: the middle of real images filled several times (CM Algorithm 4)."""
    subject.require_consistency()
    cfg = subject.generator.schedule
    x, labels = subject.real(INPAINTED)
    mask = pattern_mask("center", x.shape[-1], seed=0).to(x.device)
    noises = (Noise(NOISE_SEED, fill, subject.device) for fill in range(FILLS))
    levels = editing_levels(EDIT_STEPS, cfg)
    fills = [inpaint(subject.model, x, mask, levels, cfg, noise, labels) for noise in noises]
    columns = [column.expand(-1, 3, -1, -1) for column in (x, masked(x, mask), *fills)]
    mosaic = Mosaic(to_uint8(torch.stack(columns, 1)).cpu())
    figure, axis = mosaic.figure(WIDTH * 0.7)
    mosaic.columns(axis, ["original", "masked", *(f"fill {i + 1}" for i in range(FILLS))])
    return figure


def draw_trajectory(subject: Subject) -> Figure:
    """Figs. 6 and 7: x + t z at equidistant levels, and f along it, whose neighbours must look alike."""
    t, columns, steps, before = subject.levels(TRAJECTORY_LEVELS), [], list[float](), None
    for level, (x_t, f) in zip(t, subject.along(t, OVER), strict=True):
        visible = x_t / (1 + 4 * level**2).sqrt()  # from the image to noise of half its range
        columns.append(torch.stack([visible, f], 1)[:TRAJECTORIES].flatten(0, 1))  # an image's two rows
        steps += [] if before is None else [rms(f, before)]
        before = f
    mosaic = Mosaic(to_uint8(torch.stack(columns, 1)).cpu(), group=2)
    figure, axis = mosaic.figure(WIDTH)
    mosaic.columns(axis, [f"{level:.2g}" for level in t.tolist()], "noise level $t$")
    mosaic.rows(axis, ["$x + t\\,z$", "$f(x + t\\,z, t)$"] * (len(mosaic.centres_y) // 2))
    between = [(a + b) / 2 for a, b in pairwise(mosaic.centres_x)]
    axis.set_xticks(between, [f"{step:.3f}" for step in steps])
    x = subject.real(OVER)[0]
    axis.set_xlabel(
        f"root-mean-square distance between neighbouring $f$, mean over {len(x)} images\n"
        f"mean of these: {np.mean(steps):.3f}; between two real images: {rms(x, x.roll(1, 0)):.3f}"
    )
    return figure


def draw_noise_levels(subject: Subject) -> Figure:
    """Fig. 1's check for mode collapse: f(x + t z, t) of different x, a row per t, with the diversity of the row."""
    t, x = subject.levels(TRAJECTORY_LEVELS), to_uint8(subject.real(OVER)[0])
    rows, diversity = [x[:SHOWN]], [1.0]
    for _, f in subject.along(t, OVER):
        images = to_uint8(f)
        rows.append(images[:SHOWN])
        diversity.append(spread(images) / spread(x))
    mosaic = Mosaic(torch.stack(rows).cpu())
    figure = Figure(figsize=(WIDTH, WIDTH * 0.78 * mosaic.aspect), layout="constrained")
    axis, side = figure.subplots(1, 2, width_ratios=(1, 0.2))
    mosaic.show(axis)
    mosaic.rows(axis, ["real $x$", *(f"$t$ = {level:.2g}" for level in t.tolist())])
    axis.set_title("$f(x + t\\,z, t)$, a different $x$ in each column")
    side.sharey(axis)
    side.barh(mosaic.centres_y, diversity, height=0.4 * mosaic.canvas.shape[0] / len(rows), color=COLOURS[0])
    for y, value in zip(mosaic.centres_y, diversity, strict=True):
        side.annotate(f"{value:.2f}", (1, y), xycoords=side.get_yaxis_transform(), ha="right", va="center")
    side.axvline(1, color=GREY, lw=0.8, ls=(0, (4, 2)))
    side.set_xlim(0, 1.4 * max(1, *diversity))
    side.set_xticks([0, 1])
    side.tick_params(left=False, labelleft=False)
    side.grid(False)
    side.set_title("diversity")
    return figure


def rms(a: Tensor, b: Tensor) -> float:
    """Mean over images [n,C,H,W] of the root mean square difference of their pixels."""
    return float((a - b).square().flatten(1).mean(1).sqrt().mean())
