"""`python -m act_ray.train`: train one ACT model."""

import datetime
import os
import warnings
from typing import Any

import click

from act_ray import config, settings
from act_ray.cli import run
from act_ray.errors import UserError


@click.command("train", context_settings={"show_default": True})
@click.option("--preset", "preset_name", default=None, help="digits, cifar10, cifar10_aug, imagenet64 or lsun_cat256.")
@click.option("--data", help="'digits' or a folder (or s3:// URI) written by act_ray.prepare; short for data.path.")
@click.option("--workers", default=1, type=click.IntRange(0), help="Ray Train workers; 0 trains in this process.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change a setting, e.g. --set loss.w=0.5.")
@click.option("--storage", default="runs", help="Folder or URI under which the run's folder is made.")
@click.option("--name", help="Name of the run. Default: preset and time.")
@click.option("--resume", metavar="RUN", help="Continue the run in this folder, bit for bit.")
@click.option("--max-failures", default=3, type=click.IntRange(0), help="Lost workers to survive.")
@click.option("--gpu/--cpu", default=None, help="A GPU per worker. Default: when the cluster has any.")
@click.option("--shared-storage", is_flag=True, help="--storage is a folder that all nodes mount (NFS).")
def command(
    preset_name: str | None,
    data: str | None,
    workers: int,
    overrides: tuple[str, ...],
    storage: str,
    name: str | None,
    resume: str | None,
    max_failures: int,
    gpu: bool | None,
    shared_storage: bool,
) -> int:
    """Train one ACT model on W data-parallel workers (Ray Train), and go on where it stopped with --resume.

    Writes checkpoints, metrics.jsonl, scores.jsonl and sample grids to the run's folder. Ctrl-C saves first. Exit code
    0: trained to the end, or stopped as asked; 1: stopped because it collapsed or failed; 2: a mistake in the input.
    """
    from act_ray.runs.folder import RunFolder
    from act_ray.runs.storage import join
    from act_ray.train.warm_start import adopt_architecture

    if resume is not None:
        if preset_name or data or overrides or name:
            raise UserError(
                "--resume RUN: takes its settings from the run; give no --preset, --data, --set or --name with it"
            )
        cfg, location = saved_config(resume), resume.rstrip("/")
        RunFolder(location).clear_stop()  # of a run that was killed before it could obey
    else:
        dotted = settings.parse_overrides(overrides)
        if data is not None:
            dotted["data.path"] = data
        cfg = adopt_architecture(settings.absolute_paths(settings.load(preset_name or "digits", dotted)), dotted)
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        location = join(storage, name or f"{preset_name or 'digits'}-{stamp}")
        if RunFolder(location).read("config.yaml") is not None:
            raise UserError(
                f"--name {name}: {location} exists; continue it with --resume {location}, or choose another"
            )
    if "://" not in location:
        location = os.path.abspath(location)
    report = train_run(cfg, location, workers, gpu, max_failures, shared_storage)
    return conclude(report, location, cfg)


def saved_config(resume: str) -> config.Config:
    """The config of the run to resume."""
    from act_ray.runs.folder import RunFolder, read_config

    cfg = read_config(RunFolder(resume.rstrip("/")))
    if cfg is None:
        raise UserError(f"--resume {resume}: no config.yaml there; give the folder of a run, e.g. runs/NAME")
    return cfg


def train_run(
    cfg: config.Config, location: str, workers: int, gpu: bool | None, max_failures: int, shared_storage: bool
) -> dict[str, Any]:
    """Check what can be checked before anything starts, then train; returns the last report."""
    from act_ray.runs.interrupt import interruptible
    from act_ray.train.follow import Follow
    from act_ray.train.preflight import preflight

    warnings.simplefilter("ignore", FutureWarning)
    if workers == 0 or not os.environ.get("RAY_ADDRESS"):  # on a cluster the data may be where only its workers see it
        preflight(cfg, workers)
    click.echo(f"run: {location}")
    follow = Follow(location, cfg.train.total_steps)
    if workers == 0:
        from act_ray.train.loop import train_here

        with follow:
            return interruptible(lambda: train_here(cfg, location, gpu), location, click.echo)

    from act_ray.ray_cluster import connected, gpu_per_worker, require_shared_storage
    from act_ray.train.ray_workers import fit

    with connected(), follow:
        require_shared_storage(location, shared_storage)
        use_gpu = gpu_per_worker(workers, gpu)
        return interruptible(
            lambda: fit(cfg, location, workers, gpu=use_gpu, max_failures=max_failures), location, click.echo
        )


def conclude(report: dict[str, Any], location: str, cfg: config.Config) -> int:
    """Say how it ended and what to do next; the exit code."""
    from act_ray.runs.folder import RunFolder

    step, total = report["step"], cfg.train.total_steps
    if report["outcome"] == "completed":
        click.echo(f"done: score {report['score']:.4g}, best {report['best_score']:.4g}; samples in {location}/samples")
        return 0
    if report["outcome"] == "stopped":
        click.echo(f"saved at step {step:,} of {total:,}; go on with: python -m act_ray.train --resume {location}")
        return 0
    click.echo(f"stopped at step {step:,} of {total:,}: {report['prune_reason']}")
    click.echo(
        f"evidence: {location}/{'evidence.json' if RunFolder(location).read('prune.json') is None else 'prune.json'}"
    )
    return 1


if __name__ == "__main__":
    run(command)
