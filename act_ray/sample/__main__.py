"""`python -m act_ray.sample MODEL`: images of a trained model, as a grid, a folder of PNG files or an .npz."""

import itertools
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from tqdm import tqdm

from act_ray.cli import run
from act_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from act_ray.generators.generator import Generator
    from act_ray.sample.outputs import Add

PATH = click.Path(path_type=Path)


@click.command("sample", context_settings={"show_default": True})
@click.argument("location", metavar="MODEL")
@click.option("-n", "n", default=64, type=click.IntRange(1), help="Images.")
@click.option("--grid", type=PATH, metavar="FILE.png", help="One picture. Default, without another: samples.png.")
@click.option("--folder", type=PATH, metavar="DIR", help="A PNG per image: 000000.png, 000001.png, ...")
@click.option("--npz", type=PATH, metavar="FILE.npz", help="What FID tools read: arr_0 [n,H,W,C], arr_1 labels.")
@click.option("--nfe", type=click.IntRange(1), help="Network evaluations per image. Default: 1.")
@click.option("--levels", metavar="T,T,..", help="The noise levels after T, descending, instead of --nfe's even ones.")
@click.option("--seed", type=click.IntRange(0), help="Default: that of the run's own grids.")
@click.option("--label", type=int, help="All of one class. Default: classes as frequent as in the data.")
@click.option("--which", type=click.Choice(["best", "last"]), default="best", help="Checkpoint of a run.")
@click.option("--weights", type=click.Choice(["ema", "model"]), default="ema", help="Averaged weights or not.")
@click.option("--batch", type=click.IntRange(1), help="Images at once. Default: the run's eval.batch.")
@click.option("--gpu/--cpu", default=None, help="Default: a GPU when there is one.")
@click.option("--image-size", type=click.IntRange(1), help="For OpenAI's .pt, which does not say it.")
def command(
    location: str,
    n: int,
    grid: Path | None,
    folder: Path | None,
    npz: Path | None,
    nfe: int | None,
    levels: str | None,
    seed: int | None,
    label: int | None,
    which: Literal["best", "last"],
    weights: Literal["ema", "model"],
    batch: int | None,
    gpu: bool | None,
    image_size: int | None,
) -> None:
    """Draw images from a trained model.

    MODEL is a run's folder or URI, one of its checkpoints, a diffusers folder, or the ACT authors' .ckpt. The same
    seed and batch give the same images, however many; the default ones are those of the run's own grids.
    """
    from act_ray.device import best_device
    from act_ray.generators.reading import read_generator
    from act_ray.generators.sampling import NOISE_SEED, check_label
    from act_ray.sample.outputs import samples

    started = time.monotonic()
    if grid is folder is npz is None:
        grid = Path("samples.png")
    check_paths(grid, folder, npz)
    source = read_generator(location, which=which, weights=weights, image_size=image_size)
    check_label(source, label)
    taus, evaluations = chosen_levels(source, nfe, levels)
    seed = NOISE_SEED if seed is None else seed
    batch = batch or min(source.cfg.eval.batch, source.cfg.eval.samples)
    about = {"model": source.origin, "weights": weights, "levels": taus, "seed": seed, "batch": batch}
    outputs = open_outputs(source, n, grid, folder, npz, about)
    model = source.build(best_device(gpu))
    batches = samples(model, source, n, batch=batch, seed=seed, levels=taus, label=label)
    write(batches, outputs, n, batch)
    plural = "s" if evaluations > 1 else ""
    click.echo(
        f"{n:,} samples of {source.origin}, {evaluations} evaluation{plural} each, {time.monotonic() - started:.1f} s: "
        + ", ".join(str(path) for path in (grid, folder, npz) if path is not None)
    )


def check_paths(grid: Path | None, folder: Path | None, npz: Path | None) -> None:
    """Find mistakes in where to write before anything is computed."""
    for option, path in (("grid", grid), ("npz", npz)):
        suffix = {"grid": ".png", "npz": ".npz"}[option]
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UserError(f"--{option} {path}: must end in {suffix}")
        if path.is_dir():
            raise UserError(f"--{option} {path}: is a folder; name a file")
        if folder is not None and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--{option} {path}: lies in --folder {folder}, which is to hold samples alone")


def chosen_levels(source: "Generator", nfe: int | None, levels: str | None) -> tuple[list[float], int]:
    """The noise levels after T, and the evaluations per image that they come to."""
    from act_ray.core.consistency import multistep_levels

    cfg = source.schedule
    if source.cfg.train.method == "diffusion":
        if nfe is not None or levels is not None:
            raise UserError(
                f"{'--levels' if nfe is None else '--nfe'}: {source.origin} is a diffusion run, sampled by its ODE in "
                f"eval.ode_steps = {source.cfg.eval.ode_steps} steps; leave it out"
            )
        return [], 2 * source.cfg.eval.ode_steps - 1
    if levels is None:
        taus = multistep_levels(nfe or 1, cfg)
    elif nfe is not None:
        raise UserError(f"--nfe {nfe}: not with --levels, whose count says it")
    else:
        taus = parse_levels(levels, cfg.t_min, cfg.t_max)
    return taus, len(taus) + 1


def parse_levels(text: str, low: float, high: float) -> list[float]:
    """'5,0.3' -> [5.0, 0.3]."""
    try:
        taus = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--levels {text}: must be numbers with commas between, as 5,0.3") from None
    if not all(low <= tau < high for tau in taus) or any(a <= b for a, b in itertools.pairwise(taus)):
        raise UserError(f"--levels {text}: must descend, from below T = {high:g} to no less than eps = {low:g}")
    return taus


def open_outputs(
    source: "Generator", n: int, grid: Path | None, folder: Path | None, npz: Path | None, about: dict[str, Any]
) -> list[AbstractContextManager["Add"]]:
    """What is to be written, not opened yet."""
    from act_ray.sample.outputs import grid_file, npz_file, png_folder

    outputs: list[AbstractContextManager[Add]] = []
    if folder is not None:
        outputs.append(png_folder(folder, about))
    if npz is not None:
        outputs.append(npz_file(npz, n, source.shape))
    if grid is not None:
        outputs.append(grid_file(grid))
    return outputs


def write(
    batches: Iterable[tuple["np.ndarray", "np.ndarray | None"]],
    outputs: Iterable[AbstractContextManager["Add"]],
    n: int,
    batch: int,
) -> None:
    """Draw all batches into the outputs, which appear when all are drawn; a bar on terminals only."""
    import torch

    try:
        with ExitStack() as opened, tqdm(total=n, unit=" images", disable=not sys.stderr.isatty()) as bar:
            adds = [opened.enter_context(output) for output in outputs]
            for images, labels in batches:
                for add in adds:
                    add(images, labels)
                bar.update(len(images))
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch {batch}: needs more memory than the GPU has; try --batch {max(1, batch // 2)}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be written: {error}") from error


if __name__ == "__main__":
    run(command)
