"""`python -m act_ray.evaluate`: FID, Inception score, KID, precision and recall of a trained model."""

from __future__ import annotations

import datetime
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from act_ray import settings
from act_ray.cli import run
from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.files import EVALUATIONS

if TYPE_CHECKING:
    from act_ray.data.shards import ImageData
    from act_ray.generators.generator import Generator
    from act_ray.metrics.moments import Part
    from act_ray.runs.folder import Row, RunFolder

METRICS = ("fid", "is", "kid", "prc")
LEAST = 16  # images, of either kind; what eval.samples allows


@click.command("evaluate", context_settings={"show_default": True})
@click.argument("location", metavar="RUN|CHECKPOINT|MODEL")
@click.option("--data", help="Real images, as for training. Default: the run's data.path.")
@click.option("--metrics", default="fid", help="Some of fid,is,kid,prc (precision and recall).")
@click.option("--samples", default=50_000, type=click.IntRange(LEAST), help="Samples to draw.")
@click.option("--batch", type=click.IntRange(1), help="Samples per forward pass. Default: the run's eval.batch.")
@click.option("--features", type=click.Choice(["inception", "classifier"]), help="Default: the run's eval.features.")
@click.option("--inception-weights", metavar="FILE", help="torch-fidelity's InceptionV3. Default: as the run has it.")
@click.option("--nfe", help="Network evaluations per sample, e.g. 1,2,3. Default: 1.")
@click.option("--levels", help="Noise levels after the first, descending, e.g. 2.4,0.4 for three evaluations.")
@click.option("--which", default="best", type=click.Choice(["best", "last"]), help="Checkpoint of a run.")
@click.option("--weights", default="ema", type=click.Choice(["ema", "model"]), help="The average, or the last weights.")
@click.option("--workers", type=click.IntRange(0), help="Ray workers; 0: this process. Default: what the cluster has.")
@click.option("--gpu/--cpu", default=None, help="A GPU per worker. Default: when the cluster has any.")
@click.option(
    "--out", type=click.Path(path_type=Path), help=f"Append the rows to this file. Default: RUN/{EVALUATIONS}."
)
def command(
    location: str,
    data: str | None,
    metrics: str,
    nfe: str | None,
    levels: str | None,
    which: Any,
    weights: Any,
    workers: int | None,
    gpu: bool | None,
    out: Path | None,
    **evaluation: Any,
) -> None:
    """Draw samples from a trained model and compare them with real images, on one Ray worker per GPU (or CPU).

    The model is a run's folder or URI, one of its checkpoints, a diffusers folder, or the ACT authors' .ckpt. Networks
    and formulas are torch-fidelity's. The number of workers changes no result. Appends one JSON row per --nfe.
    """
    warnings.simplefilter("ignore")
    asked = list(dict.fromkeys(name.strip() for name in metrics.split(",")))
    for name in asked:
        if name not in METRICS:
            raise UserError(f"--metrics {metrics}: no metric '{name}'; {nearest(name, METRICS)}")
    source, cfg, real = load(location, data, which, weights, evaluation)
    if "is" in asked and cfg.eval.features == "classifier":
        raise UserError(
            "--metrics is: the Inception score needs Inception's classes; leave it out, or use --features inception"
        )
    samplers = plan_samplers(cfg, nfe, levels)
    target, name = destination(location, source, out)
    job = Evaluation(source, cfg, real, asked)
    rows: list[Row] = []
    kept = 0
    try:
        for measured in evaluate(job, samplers, workers, gpu):
            about = {"step": source.step, "weights": source.weights if source.step is not None else None}
            rows.append({"model": source.source, **about, **measured})
            append(target, name, rows[-1])
            kept += 1
    finally:  # also what was measured before an interruption
        if rows:
            show(job, rows)
            click.echo(f"{kept} row{'' if kept == 1 else 's'} appended to {target.location}/{name}")


# ---------------------------------------------------------------------------------------------- what to do


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated: a model, against these images, in these metrics."""

    source: Generator
    cfg: Config
    real: ImageData
    asked: list[str]


def load(
    location: str, data: str | None, which: Any, weights: Any, evaluation: dict[str, Any]
) -> tuple[Generator, Config, ImageData]:
    """The model, its config with the options on top, and the real images. Raises UserError where they do not fit."""
    from act_ray.data.shards import open_data
    from act_ray.generators.reading import read_generator

    real = open_data(data) if data is not None else None
    foreign = f"--data: {location} does not say which images it is to be compared with; give a prepared data set"
    if real is None and location.endswith((".ckpt", ".pt", ".pth")):
        raise UserError(foreign)
    source = read_generator(
        location, which=which, weights=weights, image_size=None if real is None else real.images.shape[2]
    )
    if real is None and source.step is None:
        raise UserError(foreign)
    given = {name: value for name, value in evaluation.items() if value is not None}
    over = {"data": {"path": data or source.cfg.data.path}, "eval": given}
    cfg = settings.absolute_paths(settings.build(settings.merge(source.cfg.model_dump(), over), location))
    real = real or open_data(cfg.data.path)
    check(source, cfg, real)
    return source, cfg, real


def check(source: Generator, cfg: Config, real: ImageData) -> None:
    """Raise UserError for images that the model's samples cannot be compared with; say when they are others."""
    shape, classes = real.images.shape[1:], cfg.model.num_classes
    if shape != source.shape:
        ours, theirs = ("x".join(map(str, sides)) for sides in (shape, source.shape))
        raise UserError(f"--data {cfg.data.path}: has {ours} images, and {source.source} makes {theirs}")
    if len(real.images) < LEAST:
        raise UserError(f"--data {cfg.data.path}: has {len(real.images)} images; at least {LEAST} are needed")
    if source.label_counts is None and classes is not None and real.num_classes not in (0, classes):
        raise UserError(f"--data {cfg.data.path}: has {real.num_classes} classes, and {source.source} knows {classes}")
    if source.data_checksum not in (None, real.checksum):
        click.echo(f"{cfg.data.path}: not the images that {source.source} was trained on; compared with all the same")


def plan_samplers(cfg: Config, nfe: str | None, levels: str | None) -> list[tuple[int, list[float]]]:
    """(network evaluations, levels after the first) for each row. Raises UserError."""
    from act_ray.core.consistency import multistep_levels
    from act_ray.sample.__main__ import parse_levels

    try:
        counts = [int(part) for part in (nfe or "1").split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"--nfe {nfe}: must be numbers from 1 on with commas between, as 1,2,3")
    if cfg.train.method == "diffusion":
        own = 2 * cfg.eval.ode_steps - 1
        if counts != [1] or levels is not None:
            option = "--levels" if levels is not None else f"--nfe {nfe}"
            raise UserError(f"{option}: not for a diffusion run, whose ODE takes {own} evaluations (eval.ode_steps)")
        return [(own, [])]
    if levels is None:
        return [(count, multistep_levels(count, cfg.step.schedule)) for count in counts]
    taus = parse_levels(levels, cfg.schedule.t_min, cfg.schedule.t_max)
    if nfe is not None and counts != [len(taus) + 1]:
        raise UserError(f"--levels {levels}: makes {len(taus) + 1} evaluations, not --nfe {nfe}; leave one of them out")
    return [(len(taus) + 1, taus)]


# ---------------------------------------------------------------------------------------------- doing it


def evaluate(
    job: Evaluation, samplers: list[tuple[int, list[float]]], workers: int | None, gpu: bool | None
) -> Iterator[Row]:
    """Yield what was measured, a row for each sampler."""
    import torch

    from act_ray.data.shards import label_counts
    from act_ray.evaluate.measurer import Setup, measuring
    from act_ray.metrics import scores
    from act_ray.metrics.features import load_extractor
    from act_ray.metrics.moments import gather, plan

    source, cfg, n, images = job.source, job.cfg, job.cfg.eval.samples, len(job.real.images)
    extractor = load_extractor(cfg.eval, job.real, torch.device("cpu"), click.echo, logits="is" in job.asked)
    compared = not {"kid", "prc"}.isdisjoint(job.asked)  # whose features, and not their moments alone, are compared
    keep = [0] * compared + [1] * ("is" in job.asked)
    if "kid" in job.asked and (size := scores.kid_subset(n, images)) < scores.KID_SUBSET:
        click.echo(f"kid: subsets of {size:,} instead of {scores.KID_SUBSET:,} images: there are no more")
    setup = Setup(source, extractor, cfg, source.label_counts or label_counts(job.real))
    with measuring(setup, workers, gpu) as measure:
        reference = None
        if job.asked != ["is"]:
            reference = scores.reference(
                extractor,
                job.real,
                lambda chunks, kept: shown(measure(chunks, kept, None), images, "real images, once"),
                features=compared,
            )
        for nfe, levels in samplers:
            started = time.monotonic()
            parts = measure(plan(n, cfg.eval.batch), keep, levels)
            samples = gather(shown(parts, n, f"samples, NFE {nfe}"), n)
            found = scores.metrics(job.asked, samples, reference)
            if "fid" in found and cfg.eval.features == "classifier":
                found = {"fd": found.pop("fid"), **found}
            yield {
                "nfe": nfe, "levels": levels, "samples": n, "batch": cfg.eval.batch, "features": cfg.eval.features,
                "data": cfg.data.path, "data_checksum": job.real.checksum, "images": images, "metrics": found,
                "seconds": round(time.monotonic() - started, 3),
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }  # fmt: skip


def shown(parts: Iterable[Part], total: int, what: str) -> Iterator[Part]:
    """The parts, counted by a progress bar on a terminal."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(total=total, desc=what, unit="image", disable=hidden, leave=False, dynamic_ncols=True) as bar:
        for part in parts:
            yield part
            bar.update(part.moments.n)


# ---------------------------------------------------------------------------------------------- telling


def destination(location: str, source: Generator, out: Path | None) -> tuple[RunFolder, str]:
    """The folder and the file that rows are appended to. Raises UserError before anything was computed for nothing."""
    from act_ray.runs.checkpoint import MANIFEST
    from act_ray.runs.folder import RunFolder

    if out is not None:
        if not out.parent.is_dir() or out.is_dir():
            raise UserError(f"--out {out}: not a file in a folder that exists")
        return RunFolder(str(out.parent)), out.name
    if source.step is None:
        raise UserError(f"--out: {location} is no run with a folder of its own; give the file to append to")
    local = Path(location).expanduser()
    own = location.rstrip("/")
    if "://" not in location:
        own = str(local.resolve().parents[1] if (local / MANIFEST).exists() else local)
    return RunFolder(own, scratch="evaluations"), EVALUATIONS  # a scratch of its own: push_root sends all that is there


def append(target: RunFolder, name: str, row: Row) -> None:
    """Add a row to a file, on the object store for a remote run."""
    target.path.mkdir(parents=True, exist_ok=True)
    if target.remote is not None:
        target.write(name, target.read(name) or "")
    target.append(name, [row])
    target.push_root()


def show(job: Evaluation, rows: list[Row]) -> None:
    """A table: a line for each metric and number of network evaluations."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=job.source.source, title_justify="left")
    for heading in ("metric", "NFE", "value", "real images"):
        table.add_column(heading, no_wrap=True)
    against = f"{job.real.name}, {len(job.real.images):,}"
    about = f"({job.cfg.eval.features} features, {job.cfg.eval.samples} samples)"
    for row in rows:
        for name, value in row["metrics"].items():
            if name.endswith("_std") or name == "f_score":
                continue
            label = name if name in ("precision", "recall") else name.upper()
            spread = row["metrics"].get(f"{name}_std")
            table.add_row(
                f"{label} {about}",
                str(row["nfe"]),
                f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else ""),
                "" if name == "is" else against,
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    run(command)
