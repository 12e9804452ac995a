"""`python -m act_ray.edit TASK MODEL IMAGE...`: zero-shot editing with a trained consistency model (CM appendix D)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from act_ray.cli import (
    MODEL_HELP,
    PATH,
    gpu_option,
    model_argument,
    model_options,
    options,
    overwrite_option,
    run,
    waiting,
)
from act_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from act_ray.edit.request import EditRequest


PATTERNS = ("center", "left", "right", "top", "bottom", "checker", "stripes", "random")
STROKE_LEVELS = (5.38, 2.24)  # CM appendix D
SETTINGS = {"context_settings": {"show_default": True}, "epilog": MODEL_HELP}

task_options = options(
    click.option("-o", "--out", type=PATH, metavar="OUT.png", help="Default: TASK.png."),
    overwrite_option,
    click.option("--label", help="The images' class, by number or name, for a class-conditional model."),
    model_options,
    gpu_option,
)
image_options = options(
    model_argument,
    click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH),
    click.option("--samples", default=1, type=click.IntRange(1), help="Results per image."),
    click.option("--seed", default=0, type=click.IntRange(0), help="Of the noise."),
    task_options,
)
steps_option = click.option("--steps", default=40, type=click.IntRange(1), help="Network evaluations.")


@click.group("edit", no_args_is_help=False, subcommand_metavar="TASK MODEL IMAGE...", epilog=MODEL_HELP)
def command() -> None:
    """Edit images with a trained consistency model that was never told how: CM Algorithm 4.

    IMAGEs are of any kind and size; they are cropped and resized to the model's. OUT.png is written (OUT-1.png,
    OUT-2.png, ... for several results), and OUT-compare.png: a row per image with the image, what the model was given
    of it, and the results.
    """


def open_request(task: str, location: str, **given: Any) -> "EditRequest":
    """The model and what was asked of it, checked; see `request.open_request`."""
    with waiting("loading PyTorch"):
        from act_ray.edit import request
    with waiting(f"reading {location}"):
        return request.open_request(task, location, **given)


def finish(request: "EditRequest", x: "Tensor | None", given: "Tensor | None", edited: "np.ndarray") -> None:
    """Write the results and say where. x: the images; given: what the model was given of them."""
    from act_ray.edit.request import save

    paths, compare = save(request, x, given, edited)
    listed = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    click.echo(f"{listed}; side by side: {compare}")


# ---------------------------------------------------------------------------------------------- tasks


@command.command("inpaint", **SETTINGS)
@click.option("--mask", type=PATH, metavar="FILE", help="White where to fill; as large as the image or the model's.")
@click.option("--pattern", type=click.Choice(PATTERNS), help="Instead of --mask. Default: center.")
@steps_option
@image_options
def inpaint(mask: Path | None, pattern: str | None, steps: int, **asked: Any) -> None:
    """Fill the masked pixels; the others stay as they are."""
    from act_ray.core import editing
    from act_ray.edit.request import edit_images, masked, pattern_mask, read_images, read_mask

    request = open_request("inpaint", **asked)
    if mask is not None and pattern is not None:
        raise UserError(f"--pattern {pattern}: not with --mask {mask}")
    x = read_images(request)
    omega = pattern_mask(pattern or "center", request.size, request.seed) if mask is None else read_mask(mask, request)
    levels = editing.editing_levels(steps, request.schedule)
    finish(
        request,
        x,
        masked(x, omega),
        edit_images(
            request, x, lambda f, x, noise, labels: editing.inpaint(f, x, omega.to(x), levels, f.cfg, noise, labels)
        ),
    )


@command.command("colorize", **SETTINGS)
@steps_option
@image_options
def colorize(steps: int, **asked: Any) -> None:
    """Give images new colours of the same grey values."""
    from act_ray.core import editing
    from act_ray.edit.request import edit_images, read_images

    request = open_request("colorize", **asked)
    if request.channels != 3:
        raise UserError(f"colorize: {request.generator.origin} makes grey images; give a model of colour images")
    grey = read_images(request, channels=1).expand(-1, 3, -1, -1)
    levels = editing.editing_levels(steps, request.schedule)
    finish(
        request,
        read_images(request),
        grey,
        edit_images(request, grey, lambda f, x, noise, labels: editing.colorize(f, x, levels, f.cfg, noise, labels)),
    )


@command.command("super-resolve", **SETTINGS)
@click.option("--factor", default=2, type=click.IntRange(2), help="Times as large in each direction.")
@steps_option
@image_options
def super_resolve(factor: int, steps: int, **asked: Any) -> None:
    """Enlarge images; their old pixels are the new ones' means.

    An IMAGE of the model's size / FACTOR is enlarged. A larger one is first brought to that size, to compare the result
    with it.
    """
    from act_ray.core import editing
    from act_ray.edit.request import block_means, edit_images, read_low_resolution

    request = open_request("super-resolve", **asked)
    x = read_low_resolution(request, factor)
    levels = editing.editing_levels(steps, request.schedule)
    finish(
        request,
        x,
        block_means(x, factor),
        edit_images(
            request, x, lambda f, x, noise, labels: editing.super_resolve(f, x, factor, levels, f.cfg, noise, labels)
        ),
    )


@command.command("stroke", **SETTINGS)
@click.option("--start", type=float, metavar="T", help="First noise level; more is freer. Default: CM's 5.38, 2.24.")
@click.option("--steps", type=click.IntRange(1), help="Network evaluations, at levels from --start down. Default: 2.")
@image_options
def stroke(start: float | None, steps: int | None, **asked: Any) -> None:
    """Make images after rough paintings (SDEdit)."""
    from act_ray.core import editing
    from act_ray.edit.request import check_level, edit_images, read_images

    request = open_request("stroke", **asked)
    first = STROKE_LEVELS[0] if start is None else start
    check_level(request, "--start", first)
    levels: Sequence[float] = STROKE_LEVELS
    if start is not None or steps is not None:
        levels = editing.editing_levels(steps or len(STROKE_LEVELS), request.schedule, first)
    x = read_images(request)
    finish(
        request,
        x,
        None,
        edit_images(request, x, lambda f, x, noise, labels: editing.stroke(f, x, levels, f.cfg, noise, labels)),
    )


@command.command("denoise", **SETTINGS)
@click.option("--level", default=0.5, type=float, metavar="T", help="Standard deviation, where white - black is 2.")
@click.option("--noisy", is_flag=True, help="The images have that noise already; else it is added first.")
@image_options
def denoise(level: float, noisy: bool, **asked: Any) -> None:
    """Remove Gaussian noise of a known level, in one evaluation."""
    from act_ray.core import editing
    from act_ray.core.noise import Noise
    from act_ray.edit.request import check_level, edit_images, read_images

    request = open_request("denoise", **asked)
    check_level(request, "--level", level)
    x = read_images(request)
    given = x.repeat_interleave(request.samples, 0)
    if not noisy:
        given = given + level * Noise(request.seed, 0, given.device).normal(*given.shape)
    edited = edit_images(request, given, lambda f, x, _, labels: editing.denoise(f, x, level, labels), repeat=1)
    finish(request, x, None if noisy else given[:: request.samples], edited)


@command.command("interpolate", **SETTINGS)
@model_argument
@click.option("--seeds", required=True, metavar="A,B", help="The ends: the first images of act_ray.sample --seed A, B.")
@click.option("--frames", default=9, type=click.IntRange(2), help="Images, both ends included.")
@task_options
def interpolate(seeds: str, frames: int, **asked: Any) -> None:
    """Go from one sample to another: one-step samples along the arc between their noises."""
    import torch

    from act_ray.core import editing
    from act_ray.edit.request import edit_images
    from act_ray.generators.sampling import first_noise

    ends = seeds.split(",")
    if len(ends) != 2 or not all(end.isdecimal() for end in ends):
        raise UserError(f"--seeds {seeds}: must be two whole numbers with a comma between, as 3,8")
    request = open_request("interpolate", count=frames, **asked)
    z1, z2 = (first_noise(int(end), request.generator.shape) for end in ends)
    edited = edit_images(
        request,
        torch.linspace(0, 1, frames),
        lambda f, alpha, _, labels: editing.interpolate(f, z1.to(alpha), z2.to(alpha), alpha, f.cfg, labels),
        repeat=1,
    )
    finish(request, None, None, edited)


if __name__ == "__main__":
    run(command)
