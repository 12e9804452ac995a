"""`python -m act_ray.tune`: search ACT's hyper-parameters on Ray Tune, with no compute for trials that collapse."""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from act_ray import settings
from act_ray.cli import (
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
from act_ray.errors import Interrupted, UserError
from act_ray.outcomes import TrialOutcome
from act_ray.tune.schedulers import SCHEDULERS
from act_ray.typed import typed

if TYPE_CHECKING:
    from act_ray.tune.experiment import Experiment
    from act_ray.tune.space import Space

DEFAULTS: dict[str, Any] = {
    "workers_per_trial": 0,
    "concurrent": None,
    "gpu": None,
    "max_failures": 2,
    "budget": None,
    "finalists": None,
    "from": [],
    "tensorboard": False,
}  # of the options that --resume may change


@click.command("tune")
@click.option(
    "--space",
    "space_name",
    metavar="NAME|FILE",
    help="Search space: a shipped one, or YAML.  [digits; with other --data small]",
)
@data_option
@click.option("--trials", type=click.IntRange(1), help="Number of trials. Default: what the space says.")
@click.option("--search", type=click.Choice(["random", "grid", "optuna"]), help="Default: what the space says.")
@click.option("--scheduler", type=click.Choice(list(SCHEDULERS)), help="Who waits or is stopped. Default: the space's.")
@click.option("--workers-per-trial", type=click.IntRange(0), help="Ray Train workers; 0: the trial's process.  [0]")
@click.option(
    "--budget", help="What it may take: 60%, 5 trials, 20000 steps, 1e6 images, 8 hours. Default: the space's."
)
@click.option(
    "--audit-fraction",
    type=click.FloatRange(0, 1),
    help="Share of trials that go on after their collapse is confirmed, to see whether it was; not freeze-thaw.  [0]",
)
@click.option("--finalists", type=click.IntRange(1), help="Run so many of the best again with 3 new seeds each.")
@click.option(
    "--from", "earlier", metavar="NAME", multiple=True, help="Optuna knows the trials of this earlier search, too."
)
@click.option("--concurrent", type=click.IntRange(1), help="Trials at a time. Default: as many as fit.")
@click.option("--gpu/--cpu", default=None, help="What trials run on. Default: GPUs, where the cluster has any.")
@recipe_option
@set_option
@click.option("--seed", type=click.IntRange(0), help="Seed of the draws. Default: what the space says.")
@storage_option
@click.option("--name", help="Name of the search. Default: the space's and the time.")
@click.option("--resume", metavar="NAME", help="Continue the search of this name in --storage.")
@click.option("--retry-failed", is_flag=True, help="With --resume: the trials that failed are tried again, too.")
@click.option(
    "--simulate",
    metavar="TRACES",
    help="Train nothing: replay searches over these recorded runs (benchmarks/search/traces), or a search's trials.",
)
@click.option("--resamples", type=click.IntRange(10), help="Searches to replay.  [1000]")
@click.option("--split", type=click.Choice(["fit", "held-out"]), help="Which of the recorded runs. Default: all.")
@click.option("--max-failures", type=click.IntRange(0), help="Crashes that a trial may have.  [2]")
@click.option(
    "--dashboard",
    metavar="[HOST]",
    is_flag=False,
    flag_value="127.0.0.1",
    help="Serve the live page meanwhile, with a token; HOST 0.0.0.0: to others, too.  [127.0.0.1]",
)
@tensorboard_option
@shared_storage_option
@dry_run_option
def command(
    space_name: str | None,
    data: str | None,
    trials: int | None,
    search: str | None,
    scheduler: str | None,
    workers_per_trial: int | None,
    budget: str | None,
    audit_fraction: float | None,
    finalists: int | None,
    earlier: tuple[str, ...],
    concurrent: int | None,
    gpu: bool | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    storage: str,
    name: str | None,
    resume: str | None,
    retry_failed: bool,
    simulate: str | None,
    resamples: int | None,
    split: str | None,
    max_failures: int | None,
    dashboard: str | None,
    tensorboard: bool,
    shared_storage: bool,
    dry_run: bool,
) -> int:
    """Search ACT's hyper-parameters on Ray Tune: on this machine, or on the cluster that runs the job.

    The more promising trials go on, the others wait with their checkpoints. Ends with a ranked table, the compute
    saved, and the best trial's samples beside real images. Exit code 0: trials ran (some may have collapsed); 1: all
    failed; 2: a mistake in the input; 130, or 143 for SIGTERM and 129 for SIGHUP: interrupted,
    and --resume NAME goes on.
    """
    warnings.simplefilter("ignore")
    from act_ray.tune.experiment import Experiment, default_location, require_search
    from act_ray.tune.space_checks import describe

    options: dict[str, Any] = {"workers_per_trial": workers_per_trial, "concurrent": concurrent, "gpu": gpu}
    options |= {"max_failures": max_failures, "budget": budget, "finalists": finalists}
    options |= {"tensorboard": tensorboard or None}
    given = {option: value for option, value in options.items() if value is not None}
    of_the_space = {"trials": trials, "search": search, "scheduler": scheduler, "seed": seed, "recipe": recipe,
                    "audit_fraction": audit_fraction}  # fmt: skip
    if simulate is None and (resamples is not None or split is not None):
        raise UserError("--resamples, --split: only with --simulate TRACES")
    if simulate is not None and (resume is not None or dry_run or earlier or "://" in storage):
        raise UserError("--simulate TRACES: not with --resume, --from or --dry-run, and --storage must be a folder")
    if resume is not None:
        if any(value is not None for value in (space_name, data, name, *of_the_space.values())) or overrides or earlier:
            raise UserError(
                "--resume NAME: only --storage and how to run (workers, concurrent, budget, finalists, ...) go with it"
            )
        if dry_run:
            raise UserError("--dry-run: not with --resume; the search's experiment.yaml has its settings")
        location = default_location(*split_resume(resume, storage))
        require_search(location, "--resume")
        with alone(location):
            experiment = Experiment.resume(location, given)
            require_cpus("--workers-per-trial", experiment.options["workers_per_trial"])
            if retry_failed:
                click.echo(f"{experiment.retry_failed()} failed trial(s) are tried again")
            return run_search(experiment, shared_storage, dashboard)
    if retry_failed:
        raise UserError("--retry-failed: only with --resume NAME")
    if not dry_run:
        require_cpus("--workers-per-trial", workers_per_trial or 0)
    fixed = settings.with_option(settings.parse_overrides(overrides), "data.path", "--data", data)
    if space_name is None:
        space_name = settings.usual_preset(fixed)  # there is a search space of each of these names
        if space_name != "digits":
            listed = f"`{typed('list')}` shows the others"
            click.echo(f"no --space: {space_name}, for images of your own; {listed}", err=dry_run)
    space = read_space(space_name, of_the_space, fixed, workers_per_trial or 0)
    space.plan(budget)  # a mistake in it
    given |= {"from": earlier_searches(earlier, storage, space)} if earlier else {}
    stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if simulate is not None:
        schedulers = [scheduler] if scheduler else list(SCHEDULERS)
        out = Path(storage) / (name or f"simulation-{stamp}")
        return run_simulation(simulate, space, budget, split, schedulers, concurrent or 2, resamples or 1000, out)
    if dry_run:
        for line in describe(space, budget, storage):
            click.echo(line)
        return 0
    name = name or f"{Path(space_name).stem}-{stamp}"
    experiment = Experiment.create(default_location(storage, name), space, DEFAULTS | given)
    with alone(experiment.location):
        return run_search(experiment, shared_storage, dashboard)


def read_space(name: str, over: Mapping[str, Any], fixed: Mapping[str, Any], workers: int) -> Space:
    """The search space with the command's options on top. Raises UserError for what its trials would fail for."""
    from act_ray.tune.space_checks import check_values, complete
    from act_ray.tune.space_files import load_space

    space = complete(load_space(name, over, fixed))
    if not os.environ.get("RAY_ADDRESS"):  # on a cluster the data may be where only its workers see it
        check_values(space, workers, partial(click.echo, err=True))  # --dry-run has YAML on stdout
    return space


def earlier_searches(names: tuple[str, ...], storage: str, space: Space) -> list[str]:
    """Where they are. Raises UserError where there is nothing to learn from them, or nobody to learn it."""
    from act_ray.tune.experiment import default_location
    from act_ray.tune.told import earlier

    if space.file.search != "optuna":
        raise UserError(f"--from {names[0]}: only Optuna learns from earlier trials; use --search optuna")
    locations = [default_location(*split_resume(name, storage)) for name in names]
    count = len([*earlier(space, locations)])
    click.echo(f"{count} earlier trials to learn from")
    return locations


def run_simulation(
    location: str,
    space: Space,
    budget: str | None,
    split: str | None,
    schedulers: list[str],
    workers: int,
    resamples: int,
    out: Path,
) -> int:
    """Replay searches over recorded runs; print a table, and write it with a plot."""
    from rich.console import Console

    from act_ray.tune.simulate import explain_table, make_table, simulate, write_simulation

    if out.exists():
        raise UserError(f"--name {out.name}: {out} exists; choose another name")
    found = []
    for one in simulate(location, space, budget, split, schedulers, workers, resamples):
        click.echo(f"{one.scheduler} over {one.group}: {len(one.replays):,} searches")
        found.append(one)
    console = Console(width=max(100, Console().width), highlight=False)
    console.print(make_table(found))
    click.echo(f"\n{explain_table(resamples)}")
    for path in write_simulation(found, out):
        click.echo(f"written: {path}")
    return 0


def split_resume(resume: str, storage: str) -> tuple[str, str]:
    """--resume takes the search's name, or the path of its folder."""
    if "/" in resume.rstrip("/"):
        folder, _, name = resume.rstrip("/").rpartition("/")
        return folder, name
    return storage, resume.rstrip("/")


@contextlib.contextmanager
def served(experiment: Experiment, host: str | None) -> Iterator[None]:
    """The live page beside the search, where it is asked for; its address is printed."""
    if host is None:
        yield
        return
    from act_ray.dashboard.results import Results
    from act_ray.dashboard.serving import beside, new_token

    with beside(Results([experiment.location]), host, token=new_token()) as address:
        click.echo(f"dashboard: {address}")
        yield


@contextlib.contextmanager
def alone(location: str) -> Iterator[None]:
    """Hold the search's lock, before anything of it is read or written. Raises UserError while another has it."""
    from act_ray.runs.folder import Folder
    from act_ray.runs.lock import exclusive

    folder = Folder(location).path
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder, f"{location}: another process is running this search"):
        yield


def run_search(experiment: Experiment, shared_storage: bool, dashboard: str | None = None) -> int:
    """Run it, `alone`, on Ray and print what came out; the exit code. Raises Interrupted, which says how to go on."""
    from act_ray.metrics.scores import metric_name
    from act_ray.tune.summary import conclude

    click.echo(f"search: {experiment.location}")
    if experiment.bad:
        click.echo(f"note: {experiment.bad} line(s) of events.jsonl cannot be read, and are left out")
    with served(experiment, dashboard):
        try:
            interrupted, final = search_on_ray(experiment, shared_storage)
            for one in (experiment, final):
                if one is not None and one.trials:
                    conclude(one, metric_name(one.space.example().eval))
        except KeyboardInterrupt:
            raise Interrupted(experiment.how_to_resume) from None
        except UserError:
            if experiment.new and not experiment.trials:
                experiment.discard()  # it was refused, and a better call may take its name
            raise
    if interrupted:
        click.echo(experiment.how_to_resume)
        from act_ray.runs.interrupt import exit_code

        return exit_code(130)
    return 1 if all(trial.outcome is TrialOutcome.FAILED for trial in experiment.trials.values()) else 0


def search_on_ray(experiment: Experiment, shared_storage: bool) -> tuple[bool, Experiment | None]:
    """Connect to Ray and search; whether it was interrupted, and the search over the finalists where there is one."""
    click.echo("joining the Ray cluster" if os.environ.get("RAY_ADDRESS") else "starting Ray")
    from act_ray.ray_cluster import connected, require_shared_storage
    from act_ray.tune.finalists import finalists
    from act_ray.tune.ray_search import search

    with connected():
        require_shared_storage(experiment.location, shared_storage)
        interrupted = search(experiment)
        count = experiment.options.get("finalists")
        final = finalists(experiment, count) if count and not interrupted else None
        if final is None:
            return interrupted, None
        click.echo(f"finalists: {final.space.trials} trials, in {final.location}")
        return search(final), final


if __name__ == "__main__":
    run(command)
