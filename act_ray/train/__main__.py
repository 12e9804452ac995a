"""`python -m act_ray.train`: train one ACT model."""

import datetime
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from act_ray import settings
from act_ray.cli import (
    PATH,
    data_option,
    dry_run_option,
    recipe_option,
    require_cpus,
    run,
    set_option,
    shared_storage_option,
    storage_option,
    tensorboard_option,
)  # fmt: skip
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.outcomes import RunOutcome
from act_ray.runs.interrupt import exit_code
from act_ray.typed import typed


@click.command("train", context_settings={"show_default": True})
@click.option(
    "--preset",
    "preset_name",
    metavar="NAME",
    help="`act-ray list` shows them. Default: digits, and for other --data small; with --config, the file's, and where "
    "it names none the paper's CIFAR-10 settings.",
)
@click.option(
    "--config", "config_file", type=PATH, metavar="FILE", help="Settings as YAML, such as a run's config.yaml."
)
@recipe_option
@set_option
@data_option
@click.option("--seed", type=click.IntRange(0), help="Short for train.seed.")
@click.option("--workers", default=1, type=click.IntRange(0), help="Ray Train workers; 0: this process, without Ray.")
@click.option(
    "--min-workers",
    "fewest",
    type=click.IntRange(1),
    metavar="N",
    help="Go on with so many where a lost machine does not come back, and with more when one does. Default: wait for "
    "all of them.",
)
@click.option("--gpu/--cpu", default=None, help="A GPU per worker. Default: when the cluster has any.")
@click.option("--max-failures", default=3, type=click.IntRange(0), help="Lost workers to survive.")
@storage_option
@shared_storage_option
@click.option("--name", help="Name of the run. Default: preset and time.")
@click.option("--resume", metavar="RUN", help="Continue the run in this folder, bit for bit.")
@click.option(
    "--fork", "parent", metavar="RUN", help="Start from a checkpoint of this run, with the same noise and data."
)
@click.option("--at", type=click.IntRange(1), metavar="STEP", help="Which of its checkpoints.")
@tensorboard_option
@dry_run_option
def command(
    preset_name: str | None,
    config_file: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    seed: int | None,
    workers: int,
    fewest: int | None,
    gpu: bool | None,
    max_failures: int,
    storage: str,
    shared_storage: bool,
    name: str | None,
    resume: str | None,
    parent: str | None,
    at: int | None,
    tensorboard: bool,
    dry_run: bool,
) -> int:
    """Train one ACT model on W data-parallel workers (Ray Train), and continue one that stopped with --resume.

    --fork RUN --at STEP starts a new run from a checkpoint of another; without --set it is that run, bit for bit.

    Settings: those of --preset or --config, with --set on top. Writes checkpoints, metrics.jsonl, scores.jsonl and
    sample grids to the run's folder. Ctrl-C, SIGTERM and SIGHUP save first. Exit code 0: trained to the end, or
    stopped by Ctrl-C; 143 and 129: saved, as SIGTERM or SIGHUP asked; 1: stopped because it collapsed; 2: a mistake in
    the input; 130: Ctrl-C twice, or before the first step, when there is nothing to save.
    """
    from act_ray.runs.folder import RunFolder
    from act_ray.runs.storage import join

    if resume is not None:
        if preset_name or config_file or recipe or data or overrides or name or seed is not None or parent:
            raise UserError("--resume RUN: takes its settings from the run; give no other settings and no name with it")
        cfg, location = saved_config(resume), resume.rstrip("/")
    else:
        if (parent is None) != (at is None):
            raise UserError("--fork RUN --at STEP: give both")
        if parent is not None and (preset_name or config_file or recipe or data or seed is not None):
            raise UserError("--fork RUN: takes its settings from the run; change them with --set")
        if parent is not None and at is not None:
            from act_ray.train.fork import forked_config

            cfg = forked_config(parent, at, settings.parse_overrides(overrides))
        else:
            cfg = new_config(preset_name, config_file, recipe, overrides, data, seed, partial(click.echo, err=dry_run))
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        location = join(storage, name or f"{cfg.preset or 'run'}-{stamp}")
        if RunFolder(location).read("config.yaml") is not None:
            go_on = resume_command(location, workers, fewest)
            raise UserError(f"--name {name}: {location} exists; continue it with `{go_on}`, or choose another name")
    location = location if "://" in location else os.path.abspath(location)
    if not dry_run:
        require_cpus("--workers", workers)
        click.echo(f"run: {location}")  # before what takes long: importing PyTorch
    if workers == 0 or not os.environ.get("RAY_ADDRESS"):  # on a cluster the data may be where only its workers see it
        from act_ray.train.preflight import preflight

        preflight(cfg, workers, partial(click.echo, err=dry_run))  # the settings alone go to stdout
    if fewest is not None:
        check_sizes(cfg, fewest, workers)
    if dry_run:
        click.echo(settings.dump(cfg), nl=False)
        return 0
    if parent is not None and at is not None:
        from act_ray.train.fork import fork

        fork(parent, at, settings.parse_overrides(overrides), location)
    if resume is not None:
        # On NFS the lock of a node that was lost outlives it by its lease, 90 s.
        RunFolder(location, lock_wait_s=120 if workers else 30).forget_stop()
    go_on = f"go on with: {resume_command(location, workers, fewest)}"
    report = train_run(cfg, location, workers, fewest, gpu, max_failures, shared_storage, go_on, tensorboard)
    return conclude(report, location, cfg, go_on)


def check_sizes(cfg: Config, fewest: int, workers: int) -> None:
    """Raises UserError where a number of workers from the fewest on cannot share a batch."""
    if fewest > workers:
        raise UserError(f"--min-workers {fewest}: at most --workers {workers}")
    if unfit := [n for n in range(fewest, workers) if cfg.train.global_batch % (2 * n)]:
        batch = f"train.global_batch = {cfg.train.global_batch} is no multiple of 2 x {unfit[-1]}"
        raise UserError(f"--min-workers {fewest}: {batch}, and {unfit[-1]} may be left; nearest: {unfit[-1] + 1}")


def new_config(
    preset_name: str | None,
    config_file: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    seed: int | None,
    say: Callable[[str], None],
) -> Config:
    """The settings of a new run; `say` hears which preset it is where none was named. Raises UserError."""
    from act_ray.metrics.scores import resolve_features

    if preset_name and config_file:
        raise UserError(f"--config {config_file}: not with --preset; write `preset: {preset_name}` into the file")
    dotted = settings.parse_overrides(overrides)
    for name, option, value in (("data.path", "--data", data), ("train.seed", "--seed", seed)):
        dotted = settings.with_option(dotted, name, option, value)
    if config_file is not None:
        cfg = settings.load_file(config_file, dotted, recipe)
    else:
        usual = settings.usual_preset(dotted)
        cfg = settings.load(preset_name or usual, dotted, recipe_name=recipe)
        if preset_name is None and usual != "digits":
            say(f"no --preset: {usual}, for images of your own at 32x32 to 64x64; `{typed('list')}` shows the others")
    cfg = resolve_features(settings.absolute_paths(cfg))
    if cfg.model.init is None:
        return cfg
    from act_ray.train.warm_start import adopt_architecture  # imports torch

    return adopt_architecture(cfg, dotted)


def saved_config(resume: str) -> Config:
    """The config of the run to resume."""
    from act_ray.runs.folder import RunFolder, read_config

    cfg = read_config(RunFolder(resume.rstrip("/")))
    if cfg is None:
        raise UserError(f"--resume {resume}: no config.yaml there; give the folder of a run, e.g. runs/NAME")
    return cfg


def train_run(
    cfg: Config,
    location: str,
    workers: int,
    fewest: int | None,
    gpu: bool | None,
    max_failures: int,
    shared_storage: bool,
    go_on: str,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train, and print what the run writes; returns the last report. go_on: what is said where it is interrupted."""
    from act_ray.runs.folder import RunFolder
    from act_ray.runs.interrupt import on_interrupt, told_soon
    from act_ray.train.follow import Follow, count_starts
    from act_ray.train.sizes import describe_uploads

    warnings.simplefilter("ignore", FutureWarning)
    for line in describe_uploads(cfg, location):
        click.echo(line)
    follow = Follow(location, cfg.train.total_steps, tensorboard)
    early = partial(nothing_yet, location, count_starts(location), go_on)

    def ask() -> None:
        click.echo("interrupted: saving a checkpoint (Ctrl-C again gives up)")
        if not told_soon(lambda: RunFolder(location).request_stop()):  # to open a store may take as long
            click.echo(f"{location} does not answer: the run is told when it does, or ends when it cannot save there")

    if workers == 0:
        from act_ray.train.loop import train_here

        with follow:
            return on_interrupt(lambda: train_here(cfg, location, gpu), ask, go_on, early)

    click.echo("starting Ray")
    from act_ray.ray_cluster import connected, gpu_per_worker, lost, require_shared_storage
    from act_ray.train.ray_workers import fit

    with connected(), follow:
        require_shared_storage(location, shared_storage)
        use_gpu = gpu_per_worker(workers, gpu)
        click.echo(f"starting {workers} worker(s)")
        train = partial(
            fit, cfg, location, workers, fewest=fewest, gpu=use_gpu, max_failures=max_failures, say=click.echo
        )
        return on_interrupt(train, ask, go_on, early, lost)


def nothing_yet(location: str, starts: int, resume: str) -> str | None:
    """How to go on where no process has begun with the run's steps since there were so many `starts`; else None."""
    from act_ray.runs.folder import RunFolder
    from act_ray.train.follow import count_starts

    if count_starts(location) > starts:
        return None
    there = RunFolder(location).read("config.yaml") is not None
    return f"nothing was trained yet; {resume if there else 'the same command goes on from what it has prepared'}"


def resume_command(location: str, workers: int, fewest: int | None) -> str:
    """What to type to go on."""
    least = [] if fewest is None else ["--min-workers", fewest]
    return typed("train", "--resume", location, *(["--workers", workers] if workers != 1 else []), *least)


def conclude(report: dict[str, Any], location: str, cfg: Config, go_on: str) -> int:
    """Say how it ended and what to do next; the exit code."""
    step, total = report["step"], cfg.train.total_steps
    match RunOutcome(report["outcome"]):
        case RunOutcome.COMPLETED:
            scores = f"score {report['score']:.4g}, best {report['best_score']:.4g}; "
            click.echo(f"done: {'' if cfg.eval.features == 'none' else scores}samples in {location}/samples")
            return 0
        case RunOutcome.STOPPED:
            click.echo(f"saved at step {step:,} of {total:,}; {go_on}")
            return exit_code(0)
        case RunOutcome.PRUNED:
            prune = report["prune"]
            click.echo(f"stopped at step {step:,} of {total:,}: {prune['message']}; {prune['because']}")
            broken = isinstance(report["prune"]["value"], str)  # not finite: nothing lets such a run go on
            hint = "" if broken else "; --set collapse.action=record lets such a run go on"
            click.echo(f"evidence: {location}/prune.json{hint}")
            return 1


if __name__ == "__main__":
    run(command)
