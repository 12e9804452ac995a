"""`python -m act_ray.sample MODEL`: images of a trained model, as a grid, a folder of PNG files or an .npz."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from act_ray.cli import MODEL_HELP, PATH, gpu_option, model_argument, model_options, overwrite_option, run, waiting
from act_ray.errors import UserError

if TYPE_CHECKING:
    from act_ray.sample.outputs import Add, Batch


@click.command("sample", context_settings={"show_default": True}, epilog=MODEL_HELP)
@model_argument
@click.option("-n", "count", default=64, type=click.IntRange(1), help="Images.")
@click.option(
    "-o",
    "--out",
    "paths",
    type=PATH,
    multiple=True,
    default=["samples.png"],
    metavar="OUT",
    help="FILE.png: one picture of up to 256. FILE.npz: what FID tools read, arr_0 [n,H,W,C] and arr_1, the labels. "
    "Any other name: a folder with a PNG per image, 000000.png and so on. Repeatable.",
)
@click.option("--nfe", type=click.IntRange(1), help="Network evaluations per image. Default: 1.")
@click.option("--levels", metavar="T,T,..", help="The noise levels after T, descending, instead of --nfe's even ones.")
@click.option("--seed", type=click.IntRange(0), help="Default: that of the run's own grids.")
@click.option("--label", help="All of one class: its number or name. Default: classes as frequent as in the data.")
@click.option("--batch", type=click.IntRange(1), help="Images at once. Default: the run's eval.batch.")
@model_options
@gpu_option
@overwrite_option
def command(
    location: str,
    count: int,
    paths: tuple[Path, ...],
    nfe: int | None,
    levels: str | None,
    seed: int | None,
    label: str | None,
    batch: int | None,
    gpu: bool | None,
    overwrite: bool,
    **model: Any,
) -> None:
    """Draw images from a trained model.

    The same seed and batch give the same images, however many; the default ones are those of the run's own grids.
    """
    started = time.monotonic()
    with waiting("loading PyTorch"):
        from act_ray.device import best_device
        from act_ray.generators.class_names import parse_label
        from act_ray.generators.levels import plan_levels
        from act_ray.generators.reading import read_generator
        from act_ray.generators.sampling import NOISE_SEED
        from act_ray.sample.outputs import check_paths, draw_samples, open_output

    check_paths(paths, overwrite)
    with waiting(f"reading {location}"):
        generator = read_generator(location, **model)
        number = parse_label(generator, label)
        evaluations, noise_levels = plan_levels(generator, nfe, levels)
        f = generator.build(best_device(gpu))
    seed = NOISE_SEED if seed is None else seed
    batch = batch or min(generator.cfg.eval.batch, generator.cfg.eval.samples)
    about = {"model": generator.origin, "weights": generator.weights, "levels": noise_levels, "clip": generator.clip,
             "seed": seed, "batch": batch}  # fmt: skip
    batches = draw_samples(f, generator, count, batch=batch, seed=seed, levels=noise_levels, label=number)
    write(batches, [open_output(path, count, generator.shape, about, overwrite) for path in paths], count, batch)
    plural = "s" if evaluations > 1 else ""
    click.echo(
        f"{count:,} samples of {generator.origin}, {evaluations} evaluation{plural} each, "
        f"{time.monotonic() - started:.1f} s: {', '.join(map(str, paths))}"
    )


def write(batches: Iterable["Batch"], outputs: Iterable[AbstractContextManager["Add"]], count: int, batch: int) -> None:
    """Draw all batches into the outputs, which appear when all are drawn."""
    import torch

    from act_ray.progress_bar import ProgressBar

    try:
        with ExitStack() as opened, ProgressBar("sampling", count, "images", partial(click.echo, err=True)) as progress:
            adds = [opened.enter_context(output) for output in outputs]
            for images, labels in batches:
                for add in adds:
                    add(images, labels)
                progress.advance(len(images))
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch {batch}: needs more memory than the GPU has; try --batch {max(1, batch // 2)}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be written: {error}") from error


if __name__ == "__main__":
    run(command)
