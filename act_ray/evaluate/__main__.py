"""`python -m act_ray.evaluate`: FID, Inception score, KID, precision and recall of a trained model."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from act_ray import settings
from act_ray.cli import MODEL_HELP, PATH, model_argument, model_options, run
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.files import EVALUATIONS
from act_ray.metrics.scores import resolve_features

if TYPE_CHECKING:
    from act_ray.data.shards import ImageData
    from act_ray.generators.generator import Generator
    from act_ray.runs.folder import RunFolder
    from act_ray.runs.rows import Row

LEAST = 16  # images, of either kind; what eval.samples allows


@click.command("evaluate", context_settings={"show_default": True}, epilog=MODEL_HELP)
@model_argument
@click.option("--data", help="Real images, as for training. Default: the run's data.path; an exported model needs it.")
@click.option("--metrics", default="fid", help="Some of fid,is,kid,prc (precision and recall).")
@click.option("--samples", default=50_000, type=click.IntRange(LEAST), help="Samples to draw.")
@click.option("--batch", type=click.IntRange(1), help="Samples per forward pass. Default: the run's eval.batch.")
@click.option(
    "--features",
    type=click.Choice(["auto", "inception", "self_supervised", "classifier"]),
    help="Default: the run's eval.features.",
)
@click.option("--inception-weights", metavar="FILE", help="torch-fidelity's InceptionV3. Default: as the run has it.")
@click.option("--nfe", help="Network evaluations per sample, e.g. 1,2,3. Default: 1.")
@click.option("--levels", help="Noise levels after the first, descending, e.g. 2.4,0.4 for three evaluations.")
@model_options
@click.option("--workers", type=click.IntRange(0), help="Ray workers; 0: this process. Default: what the cluster has.")
@click.option("--gpu/--cpu", default=None, help="A GPU per worker. Default: when the cluster has any.")
@click.option(
    "--out", "-o", type=PATH, metavar="FILE",
    help=f"Append the rows to it. Default: MODEL/{EVALUATIONS}; an exported model needs it.",
)  # fmt: skip
def command(
    location: str,
    data: str | None,
    metrics: str,
    nfe: str | None,
    levels: str | None,
    which: Any,
    weights: Any,
    image_size: int | None,
    head_width: int | None,
    kind: Any,
    clip: bool | None,
    workers: int | None,
    gpu: bool | None,
    out: Path | None,
    **evaluation: Any,
) -> None:
    """Draw samples from a trained model and compare them with real images, on one Ray worker per GPU (or CPU).

    Networks and formulas are torch-fidelity's. The number of workers changes no result. Appends one JSON row per --nfe.

    With fid it also says how far real images are from other real images, as many as --samples or half of all: a scale
    for what a good distance is.
    """
    warnings.simplefilter("ignore")
    from act_ray.metrics.metrics import check_network, parse_metrics

    asked = parse_metrics(metrics)
    how = {"which": which, "weights": weights, "image_size": image_size, "head_width": head_width, "kind": kind,
           "clip": clip}  # fmt: skip
    comparison = load(location, data, asked, evaluation, how)
    check_network(asked, comparison.cfg.eval.features)
    samplers = plan_samplers(comparison.generator, nfe, levels)
    target, name = destination(location, comparison.generator, out)
    rows: list[Row] = []
    try:
        for row in evaluate(comparison, samplers, workers, gpu):
            append(target, name, row)
            rows.append(row)
    finally:  # also what was measured before an interruption
        if rows:
            show(comparison, rows)
            click.echo(f"{len(rows)} row{'' if len(rows) == 1 else 's'} appended to {target.location}/{name}")


# ---------------------------------------------------------------------------------------------- what to do


@dataclass(frozen=True)
class Comparison:
    """A model, the real images that its samples are compared with, and the metrics."""

    generator: Generator
    cfg: Config  # the model's, with this evaluation's data and eval
    real: ImageData
    metrics: list[str]


def load(
    location: str, data: str | None, metrics: list[str], evaluation: dict[str, Any], how: dict[str, Any]
) -> Comparison:
    """What is to be compared. Raises UserError where the model and the images do not fit.

    evaluation: settings of the section eval, None where they are the run's; how: keywords of read_generator.
    """
    from act_ray.data.shards import image_side, open_data
    from act_ray.generators.reading import read_generator

    foreign = f"--data: {location} does not say which images it is to be compared with; give a prepared data set"
    if data is None and location.endswith((".ckpt", ".pt", ".pth")):
        raise UserError(foreign)
    if data is not None and how.get("image_size") is None:
        how = {**how, "image_size": image_side(data)}
    generator = read_generator(location, **how)
    if data is None and generator.step is None:
        raise UserError(foreign)
    given = {name: value for name, value in evaluation.items() if value is not None}
    over = {"data": {"path": data or generator.cfg.data.path}, "eval": given}
    cfg = settings.absolute_paths(settings.build(settings.merge(generator.cfg.model_dump(), over), location))
    cfg = resolve_features(cfg)
    if cfg.eval.features == "none":
        raise UserError(f"--features: {location} was trained with eval.features = none; say which")
    real = open_data(cfg.data.path, cfg.data.decode, click.echo)
    check(generator, cfg, real)
    return Comparison(generator, cfg, real, metrics)


def check(generator: Generator, cfg: Config, real: ImageData) -> None:
    """Raise UserError for images that the model's samples cannot be compared with; say when they are others."""
    shape, classes = real.images.shape[1:], cfg.model.num_classes
    if shape != generator.shape:
        ours, theirs = ("x".join(map(str, sides)) for sides in (shape, generator.shape))
        raise UserError(f"--data {cfg.data.path}: has {ours} images, and {generator.origin} makes {theirs}")
    if len(real.images) < LEAST:
        raise UserError(f"--data {cfg.data.path}: has {len(real.images)} images; at least {LEAST} are needed")
    if generator.label_counts is None and classes is not None and real.num_classes not in (0, classes):
        raise UserError(
            f"--data {cfg.data.path}: has {real.num_classes} classes, and {generator.origin} knows {classes}"
        )
    if generator.data_checksum not in (None, real.checksum):
        click.echo(
            f"{cfg.data.path}: not the images that {generator.origin} was trained on; compared with all the same"
        )


def plan_samplers(generator: Generator, nfe: str | None, levels: str | None) -> list[tuple[int, list[float]]]:
    """(network evaluations, levels after the first) for each row. Raises UserError."""
    from act_ray.generators.levels import plan_levels

    if nfe is None:
        return [plan_levels(generator, None, levels)]
    try:
        counts = [int(part) for part in nfe.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"--nfe {nfe}: must be numbers from 1 on with commas between, as 1,2,3")
    return [plan_levels(generator, count, levels) for count in counts]


# ---------------------------------------------------------------------------------------------- doing it


def evaluate(
    comparison: Comparison, samplers: list[tuple[int, list[float]]], workers: int | None, gpu: bool | None
) -> Iterator[Row]:
    """Yield a row for each sampler. Raises UserError, also for features that are not finite."""
    import torch

    from act_ray.data.shards import label_counts
    from act_ray.evaluate.measurer import Setup, measuring
    from act_ray.metrics import metrics
    from act_ray.metrics.features import load_network
    from act_ray.metrics.kernel_distance import SUBSET, subset_size
    from act_ray.metrics.moments import combine, cut_into_chunks
    from act_ray.metrics.real_distance import real_distance
    from act_ray.metrics.reference import counted, load_reference
    from act_ray.runs.failing_storage import keeping_features

    generator, cfg, real, asked = comparison.generator, comparison.cfg, comparison.real, comparison.metrics
    n, images = cfg.eval.samples, len(real.images)
    with keeping_features():
        network = load_network(cfg.eval, real, torch.device("cpu"), click.echo, logits=metrics.takes(asked, "logits"))
    if "kid" in asked and (size := subset_size(n, images)) < SUBSET:
        click.echo(f"kid: subsets of {size:,} instead of {SUBSET:,} images: there are no more")
    setup = Setup(generator, network, cfg, generator.label_counts or label_counts(real))
    with measuring(setup, workers, gpu, click.echo) as measure:
        reference = None
        if metrics.compares(asked):
            with keeping_features():
                reference = load_reference(
                    network,
                    real,
                    lambda chunks, keep: counted(
                        measure(chunks, keep, None), images, "measuring the real images, once", click.echo
                    ),
                    features=metrics.takes(asked, "features"),
                )
        started, scale = time.monotonic(), None  # of the first row, whose time includes the scale's
        if "fid" in asked and reference is not None:
            scale = real_distance(network, real, reference, n, lambda chunks: measure(chunks, [], None))
        for nfe, levels in samplers:
            parts = measure(cut_into_chunks(n, cfg.eval.batch), metrics.kept_outputs(asked), levels)
            samples = combine(counted(parts, n, f"sampling, NFE {nfe}", click.echo), n)
            found = metrics.compute(asked, samples, reference)
            yield make_row(comparison, nfe, levels, found, scale, time.monotonic() - started)
            started = time.monotonic()


def make_row(
    comparison: Comparison, nfe: int, levels: list[float], found: dict[str, float], scale: float | None, seconds: float
) -> Row:
    """What evaluations.jsonl says of one measurement; docs/files.md has the fields."""
    generator, cfg = comparison.generator, comparison.cfg
    if "fid" in found and cfg.eval.features != "inception":
        found = {"fd": found.pop("fid"), **found}
    return {
        "model": generator.origin, "step": generator.step,
        "weights": generator.weights if generator.step is not None else None, "clip": generator.clip,
        "nfe": nfe, "levels": levels, "samples": cfg.eval.samples, "batch": cfg.eval.batch,
        "features": cfg.eval.features, "data": cfg.data.path, "data_checksum": comparison.real.checksum,
        "images": len(comparison.real.images), "metrics": found, "real_distance": scale, "seconds": round(seconds, 3),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- telling


def destination(location: str, generator: Generator, out: Path | None) -> tuple[RunFolder, str]:
    """The folder and the file that rows are appended to. Raises UserError, before anything is computed."""
    from act_ray.runs.folder import MANIFEST, RunFolder

    if out is not None:
        if not out.parent.is_dir() or out.is_dir():
            raise UserError(f"--out {out}: not a file in a folder that exists")
        return RunFolder(str(out.parent)), out.name
    if generator.step is None:
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


def show(comparison: Comparison, rows: list[Row]) -> None:
    """A table: a line for each metric and number of network evaluations."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from act_ray.metrics.real_distance import drawn

    table = Table(box=box.SIMPLE_HEAD, title=comparison.generator.origin, title_justify="left")
    for heading in ("metric", "NFE", "value", "real images"):
        table.add_column(heading, no_wrap=True)
    real, cfg = comparison.real, comparison.cfg.eval
    against, about = f"{real.name}, {len(real.images):,}", f"({cfg.features} features, {cfg.samples} samples)"
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
    if (scale := rows[0]["real_distance"]) is not None:
        count, name = drawn(cfg.samples, len(real.images)), "FID" if cfg.features == "inception" else "FD"
        click.echo(f"real images against real images: {name} {scale:.4g} ({count:,} against the other "
                   f"{len(real.images) - count:,}); samples as good as real ones have about that")  # fmt: skip


if __name__ == "__main__":
    run(command)
