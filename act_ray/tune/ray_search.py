"""Runs a search on Ray Tune, and goes on with an interrupted one."""

import logging
import os
import time

from ray import tune

from act_ray.outcomes import TrialOutcome
from act_ray.runs.folder import RunFolder
from act_ray.runs.interrupt import on_interrupt
from act_ray.runs.storage import join
from act_ray.tune.experiment import Experiment
from act_ray.tune.progress_line import ProgressLine, announce
from act_ray.tune.ray_optuna import OptunaSpace
from act_ray.tune.ray_placement import Placement, placement
from act_ray.tune.ray_recorder import EndAfterInterrupt, Recorder
from act_ray.tune.ray_schedulers import CollapseAware
from act_ray.tune.ray_trial import Trial
from act_ray.tune.schedulers import SCHEDULERS


def search(experiment: Experiment) -> bool:
    """Run the trials that have not ended; everything is in the experiment's folder afterwards.

    True when it was interrupted before all of them had. Raises Interrupted at a second Ctrl-C.
    """
    place = placement(experiment.options["workers_per_trial"], experiment.options["concurrent"])
    if not experiment.unfinished:
        return False
    for plan in experiment.remaining():
        if plan.index in experiment.trials:  # a request that came too late for the interrupted search
            RunFolder(experiment.trial_location(plan)).clear_stop()
    scheduler = fill_scheduler(experiment)
    recorder = Recorder(experiment, scheduler, place)
    announce(f"{experiment.unfinished} of {experiment.space.trials} trials to run; {place.why}")
    announce("starting the first trial's process, which takes some seconds")
    configure_tune(place)
    with ProgressLine(experiment):
        on_interrupt(make_tuner(experiment, recorder, place).fit, recorder.interrupt, experiment.how_to_resume)
    return experiment.unfinished > 0


def make_tuner(experiment: Experiment, recorder: Recorder, place: Placement) -> tune.Tuner:
    """Ray Tune over the trials that remain."""
    options, scheduler = experiment.options, recorder.scheduler
    optuna = OptunaSpace(experiment, recorder.tune_config) if experiment.space.file.search == "optuna" else None
    trials = [recorder.tune_config(plan) for plan in experiment.remaining()]
    retries = 0 if options["workers_per_trial"] else options["max_failures"]  # Ray Train restarts its workers itself
    return tune.Tuner(
        tune.with_resources(Trial, place.resources),
        param_space=None if optuna else {"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(
            metric="score", mode="min", scheduler=scheduler, search_alg=optuna,
            num_samples=experiment.unfinished if optuna else 1, max_concurrent_trials=place.concurrent,
            reuse_actors=False, trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{int(time.time())}", storage_path=join(experiment.location, "ray"), verbose=0, callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=retries), stop=EndAfterInterrupt(recorder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip


def configure_tune(place: Placement) -> None:
    """What Ray Tune takes from the environment."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Tune's own kills trials after ten seconds; see Recorder.interrupt
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our own log and folders say more
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(place.concurrent))
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # with verbose=0 the old output is silent, the new one is not
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failed trials are told by Recorder, in one line


def fill_scheduler(experiment: Experiment) -> CollapseAware:
    """The space's scheduler, as it was before an interruption."""
    space = experiment.space
    scheduler = SCHEDULERS[space.file.scheduler].build(space.budget)
    for index, trial in experiment.trials.items():
        if trial.outcome not in (TrialOutcome.PRUNED, TrialOutcome.FAILED):
            scheduler.replay(index, trial.reports)
    return scheduler
