"""`python -m act_ray.tune`: search ACT's hyper-parameters on Ray Tune, stopping trials that collapse."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from act_ray import settings
from act_ray.cli import run
from act_ray.errors import UserError

if TYPE_CHECKING:
    from act_ray.tune.experiment import Experiment
    from act_ray.tune.space import Space


@click.command("tune", context_settings={"show_default": True})
@click.option("--space", "space_file", type=click.Path(path_type=Path), help="Search space (YAML). Default: digits.")
@click.option("--data", help="'digits' or a folder (or s3:// URI) written by act_ray.prepare; short for data.path.")
@click.option("--trials", type=click.IntRange(1), help="Number of trials. Default: what the space says.")
@click.option("--search", type=click.Choice(["random", "grid", "optuna"]), help="Default: what the space says.")
@click.option("--scheduler", type=click.Choice(["asha", "none"]), help="Beside collapse pruning. Default: the space's.")
@click.option(
    "--workers-per-trial", default=0, type=click.IntRange(0), help="Ray Train workers; 0: the trial's process."
)
@click.option("--concurrent", type=click.IntRange(1), help="Trials at a time. Default: as many as fit.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change a setting for all trials.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the draws. Default: what the space says.")
@click.option("--storage", default="runs", help="Folder or URI under which the search's folder is made.")
@click.option("--name", help="Name of the search. Default: the space's and the time.")
@click.option("--resume", metavar="NAME", help="Continue the search of this name in --storage.")
@click.option("--max-failures", type=click.IntRange(0), help="Crashes that a trial may have. Default: 2.")
@click.option("--shared-storage", is_flag=True, help="--storage is a folder that all nodes mount (NFS).")
def command(
    space_file: Path | None,
    data: str | None,
    trials: int | None,
    search: str | None,
    scheduler: str | None,
    workers_per_trial: int | None,
    concurrent: int | None,
    overrides: tuple[str, ...],
    seed: int | None,
    storage: str,
    name: str | None,
    resume: str | None,
    max_failures: int | None,
    shared_storage: bool,
) -> int:
    """Search ACT's hyper-parameters on Ray Tune: on this machine, or on the cluster that runs the job.

    Trials that show a signature of collapse are stopped, and say why. Ends with a ranked table, the compute saved, and
    the best trial's samples beside real images. Exit code 0: trials ran (some may have collapsed); 1: all failed;
    2: a mistake in the input; 130: interrupted, and --resume NAME goes on.
    """
    warnings.simplefilter("ignore")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    from act_ray.tune.experiment import Experiment, default_location
    from act_ray.tune.space import load_space

    how = {"workers_per_trial": workers_per_trial, "concurrent": concurrent, "max_failures": max_failures}
    running = {option: value for option, value in how.items() if value is not None}
    if resume is not None:
        given = (space_file, data, trials, search, scheduler, seed, name)
        if any(option is not None for option in given) or overrides:
            raise UserError("--resume NAME: only --storage and how to run (workers, concurrent, failures) go with it")
        experiment = Experiment.resume(default_location(*split_resume(resume, storage)), running)
    else:
        fixed = settings.parse_overrides(overrides)
        if data is not None:
            fixed["data.path"] = data
        over = {"trials": trials, "search": search, "scheduler": scheduler, "seed": seed}
        with as_file(files("act_ray") / "default_space.yaml") as default:
            space = load_space(space_file or default, over, fixed)
            space = settled(space)
        if not os.environ.get("RAY_ADDRESS"):  # on a cluster the data may be where only its workers see it
            check_values(space, workers_per_trial or 0)
        label = space_file.stem if space_file else "digits"
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        options = {"workers_per_trial": 0, "concurrent": None, "max_failures": 2, **running}
        experiment = Experiment.create(default_location(storage, name or f"{label}-{stamp}"), space, options)
    return run_search(experiment, shared_storage)


def settled(space: Space) -> Space:
    """The space with absolute paths, for a search may be resumed elsewhere, and with the network of model.init."""
    from act_ray.train.warm_start import adopt_architecture

    searched = space.file.parameters
    if "model.init" in searched:
        raise UserError("parameters.model.init: its network is the same for all trials; make one search for each")
    before = space.config({})
    after = adopt_architecture(settings.absolute_paths(before), space.file.set)
    for name in searched:
        if before.model.init is not None and name.startswith("model.") and name != "model.dropout":
            raise UserError(f"parameters.{name}: the network is that of model.init; leave one of the two out")
    for name in settings.field_names():
        section, _, key = name.partition(".")
        value = getattr(getattr(after, section), key)
        if value != getattr(getattr(before, section), key) and name not in searched:
            space = space.with_setting(name, list(value) if isinstance(value, tuple) else value)
    return space


def check_values(space: Space, workers: int) -> None:
    """Find before Ray starts what trials would fail for: also for each value of what has files of its own."""
    from act_ray.train.preflight import preflight

    preflight(space.config({}), workers)
    for name in (*settings.paths(), "discriminator.kind"):
        for values in space.file.parameters.get(name, {}).values():
            for value in values:
                preflight(space.config({name: value}), workers)


def split_resume(resume: str, storage: str) -> tuple[str, str]:
    """--resume takes the search's name, or the path of its folder."""
    if "/" in resume.rstrip("/"):
        folder, _, name = resume.rstrip("/").rpartition("/")
        return folder, name
    return storage, resume.rstrip("/")


def run_search(experiment: Experiment, shared_storage: bool) -> int:
    """Run it on Ray and print what came out; the exit code."""
    from act_ray.metrics.scores import metric_name
    from act_ray.ray_cluster import connected, require_shared_storage
    from act_ray.tune.ray_search import search
    from act_ray.tune.summary import conclude

    click.echo(f"search: {experiment.location}")
    name = Path(experiment.location).name
    with hold(experiment), connected():
        require_shared_storage(experiment.location, shared_storage)
        interrupted = search(experiment)
    if experiment.trials:
        conclude(experiment, metric_name(experiment.space.config({}).eval))
    if interrupted:
        sys.stdout.flush()
        click.echo(
            f"go on with: python -m act_ray.tune --resume {name} --storage {os.path.dirname(experiment.location)}"
        )
        return 130
    return 1 if all(trial.ended == "failed" for trial in experiment.trials.values()) else 0


@contextlib.contextmanager
def hold(experiment: Experiment) -> Iterator[None]:
    """Keep a second process from running the same search. Raises UserError when there is one."""
    from act_ray.files import locked

    try:
        with locked(experiment.dir.path / ".lock", wait=False):
            yield
    except BlockingIOError:
        raise UserError(f"{experiment.location}: another process is running this search") from None


if __name__ == "__main__":
    run(command)
