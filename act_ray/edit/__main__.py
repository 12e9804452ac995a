"""`python -m act_ray.edit TASK MODEL IMAGE...`: zero-shot editing with a trained consistency model (CM appendix D)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from act_ray.cli import run
from act_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from act_ray.edit.request import EditRequest


PATH = click.Path(path_type=Path)
PATTERNS = ("center", "left", "right", "top", "bottom", "checker", "stripes", "random")
STROKE_LEVELS = (5.38, 2.24)  # CM appendix D


def options(*decorators: Any) -> Callable[[Any], Any]:
    """All of them on one command, in this order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


model_options = options(
    click.option("-o", "--output", type=PATH, metavar="OUT.png", help="Default: TASK.png."),
    click.option("--label", type=int, help="The images' class, for a class-conditional model."),
    click.option("--which", type=click.Choice(["best", "last"]), default="best", help="Checkpoint of a run."),
    click.option("--weights", type=click.Choice(["ema", "model"]), default="ema", help="Averaged weights or not."),
    click.option("--image-size", type=click.IntRange(1), help="For OpenAI's .pt, which does not say it."),
    click.option("--gpu/--cpu", default=None, help="Default: a GPU when there is one."),
)
image_options = options(
    click.argument("location", metavar="MODEL"),
    click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH),
    click.option("--samples", default=1, type=click.IntRange(1), help="Results per image."),
    click.option("--seed", default=0, type=click.IntRange(0), help="Of the noise."),
    model_options,
)
steps_option = click.option("--steps", default=40, type=click.IntRange(1), help="Network evaluations.")
SETTINGS = {"show_default": True}


@click.group("edit", no_args_is_help=False, subcommand_metavar="TASK MODEL IMAGE...")
def command() -> None:
    """Edit images with a trained consistency model that was never told how: CM Algorithm 4.

    MODEL is a run's folder or URI, one of its checkpoints, a diffusers folder, or the ACT authors' .ckpt. IMAGEs are
    of any kind and size; they are cropped and resized to the model's. OUT.png is written (OUT-1.png, OUT-2.png, ... for
    several results), and OUT-compare.png: a row per image with the image, what the model saw, and the results.
    """


def finish(job: "EditRequest", x: "Tensor | None", seen: "Tensor | None", edited: "np.ndarray") -> None:
    """Write the results and say where."""
    from act_ray.edit.request import save

    paths, compare = save(job, x, seen, edited)
    listed = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    click.echo(f"{listed}; side by side: {compare}")


# ---------------------------------------------------------------------------------------------- tasks


@command.command("inpaint", context_settings=SETTINGS)
@click.option("--mask", type=PATH, metavar="FILE", help="White where to fill; as large as the image or the model's.")
@click.option("--pattern", type=click.Choice(PATTERNS), help="Instead of --mask. Default: center.")
@steps_option
@image_options
def inpaint(mask: Path | None, pattern: str | None, steps: int, **given: Any) -> None:
    """Fill the masked pixels; the others stay as they are."""
    from act_ray.core import editing
    from act_ray.edit.request import masked, open_request, pattern_mask, read_images, read_mask, results

    job = open_request("inpaint", **given)
    if mask is not None and pattern is not None:
        raise UserError(f"--pattern {pattern}: not with --mask {mask}")
    x = read_images(job)
    omega = pattern_mask(pattern or "center", job.size, job.seed) if mask is None else read_mask(mask, job)
    levels = editing.editing_levels(steps, job.schedule)
    finish(
        job,
        x,
        masked(x, omega),
        results(job, x, lambda f, x, noise, labels: editing.inpaint(f, x, omega.to(x), levels, f.cfg, noise, labels)),
    )


@command.command("colorize", context_settings=SETTINGS)
@steps_option
@image_options
def colorize(steps: int, **given: Any) -> None:
    """Give images new colours of the same grey values."""
    from act_ray.core import editing
    from act_ray.edit.request import open_request, read_images, results

    job = open_request("colorize", **given)
    if job.channels != 3:
        raise UserError(f"colorize: {job.source.origin} makes grey images; give a model of colour images")
    grey = read_images(job, channels=1).expand(-1, 3, -1, -1)
    levels = editing.editing_levels(steps, job.schedule)
    finish(
        job,
        read_images(job),
        grey,
        results(job, grey, lambda f, x, noise, labels: editing.colorize(f, x, levels, f.cfg, noise, labels)),
    )


@command.command("super-resolve", context_settings=SETTINGS)
@click.option("--factor", default=2, type=click.IntRange(2), help="Times as large in each direction.")
@steps_option
@image_options
def super_resolve(factor: int, steps: int, **given: Any) -> None:
    """Enlarge images; their old pixels are the new ones' means.

    An IMAGE of the model's size / FACTOR is enlarged. A larger one is first brought to that size, to compare the result
    with it.
    """
    from act_ray.core import editing
    from act_ray.edit.request import block_means, open_request, read_low_resolution, results

    job = open_request("super-resolve", **given)
    x = read_low_resolution(job, factor)
    levels = editing.editing_levels(steps, job.schedule)
    finish(
        job,
        x,
        block_means(x, factor),
        results(job, x, lambda f, x, noise, labels: editing.super_resolve(f, x, factor, levels, f.cfg, noise, labels)),
    )


@command.command("stroke", context_settings=SETTINGS)
@click.option("--start", type=float, metavar="T", help="First noise level; more is freer. Default: CM's 5.38, 2.24.")
@click.option("--steps", type=click.IntRange(1), help="Network evaluations, at levels from --start down. Default: 2.")
@image_options
def stroke(start: float | None, steps: int | None, **given: Any) -> None:
    """Make images after rough paintings (SDEdit)."""
    from act_ray.core import editing
    from act_ray.edit.request import check_level, open_request, read_images, results

    job = open_request("stroke", **given)
    first = STROKE_LEVELS[0] if start is None else start
    check_level(job, "--start", first)
    levels: Sequence[float] = STROKE_LEVELS
    if start is not None or steps is not None:
        levels = editing.editing_levels(steps or len(STROKE_LEVELS), job.schedule, first)
    x = read_images(job)
    finish(
        job,
        x,
        None,
        results(job, x, lambda f, x, noise, labels: editing.stroke(f, x, levels, f.cfg, noise, labels)),
    )


@command.command("denoise", context_settings=SETTINGS)
@click.option("--level", default=0.5, type=float, metavar="T", help="Standard deviation, where white - black is 2.")
@click.option("--noisy", is_flag=True, help="The images have that noise already; else it is added first.")
@image_options
def denoise(level: float, noisy: bool, **given: Any) -> None:
    """Remove Gaussian noise of a known level, in one evaluation."""
    from act_ray.core import editing
    from act_ray.core.noise import Noise
    from act_ray.edit.request import check_level, open_request, read_images, results

    job = open_request("denoise", **given)
    check_level(job, "--level", level)
    x = read_images(job)
    seen = x.repeat_interleave(job.samples, 0)
    if not noisy:
        seen = seen + level * Noise(job.seed, 0, seen.device).normal(*seen.shape)
    result = results(job, seen, lambda f, x, _, labels: editing.denoise(f, x, level, labels), repeat=1)
    finish(job, x, None if noisy else seen[:: job.samples], result)


@command.command("interpolate", context_settings=SETTINGS)
@click.argument("location", metavar="MODEL")
@click.option("--seeds", required=True, metavar="A,B", help="The ends: the first images of act_ray.sample --seed A, B.")
@click.option("--frames", default=9, type=click.IntRange(2), help="Images, both ends included.")
@model_options
def interpolate(seeds: str, frames: int, **given: Any) -> None:
    """Go from one sample to another: one-step samples along the arc between their noises."""
    import torch

    from act_ray.core import editing
    from act_ray.edit.request import first_noise, open_request, results

    ends = seeds.split(",")
    if len(ends) != 2 or not all(end.isdecimal() for end in ends):
        raise UserError(f"--seeds {seeds}: must be two whole numbers with a comma between, as 3,8")
    job = open_request("interpolate", **given)
    z1, z2 = (first_noise(int(end), job.source.shape) for end in ends)
    result = results(
        job,
        torch.linspace(0, 1, frames),
        lambda f, alpha, _, labels: editing.interpolate(f, z1.to(alpha), z2.to(alpha), alpha, f.cfg, labels),
        repeat=1,
    )
    finish(job, None, None, result)


if __name__ == "__main__":
    run(command)
