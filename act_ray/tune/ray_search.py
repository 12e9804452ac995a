"""Runs a search on Ray Tune, and goes on with an interrupted one."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

from ray import tune

from act_ray.errors import StorageError, UserError
from act_ray.ray_cluster import lost
from act_ray.ray_watch import Watch
from act_ray.runs.failing_storage import told
from act_ray.runs.folder import RunFolder
from act_ray.runs.interrupt import on_interrupt
from act_ray.runs.patient import ray_storage
from act_ray.tune.disk import describe_disk
from act_ray.tune.experiment import Experiment
from act_ray.tune.progress_line import ProgressLine, announce
from act_ray.tune.ray_placement import Placement, placement
from act_ray.tune.ray_recorder import EndWhenIdle, Recorder
from act_ray.tune.ray_schedulers import TuneScheduler
from act_ray.tune.ray_searchers import Listed, OptunaSpace
from act_ray.tune.ray_trial import Trial
from act_ray.tune.standing import fill_scheduler


def search(experiment: Experiment, seconds: float | None = None) -> bool:
    """Run the trials that have not ended; everything is in the experiment's folder afterwards.

    seconds: after so many it is interrupted. True when it was interrupted, then or by a signal, before the scheduler
    had done with them. Raises Interrupted at a second Ctrl-C, and StorageError.
    """
    state = "interrupted"
    with told("the search's log", experiment.dir.path):
        experiment.log_state("running")
        try:
            if not (interrupted := run_trials(experiment, seconds)):
                state = "finished"
        finally:
            experiment.log_state(state)
    return interrupted


def run_trials(experiment: Experiment, seconds: float | None = None) -> bool:
    """See search."""
    began, options = time.monotonic(), experiment.options
    place = placement(options["workers_per_trial"], options["concurrent"], options.get("gpu"))
    for plan in experiment.remaining():
        if plan.index in experiment.trials:  # a request that came too late for the interrupted search
            RunFolder(experiment.trial_location(plan)).clear_stop()
    scheduler = fill_scheduler(experiment)
    if scheduler.finished:
        return False
    recorder = Recorder(experiment, scheduler, place)
    open_trials = sum(trial.state != "over" for trial in scheduler.members.values())
    announce(f"{open_trials} of {experiment.space.trials} trials to run; {place.why}")
    for line in describe_disk(experiment.space, experiment.location) if not experiment.trials else ():
        announce(line)
    announce("starting the first trial's process, which takes some seconds")
    configure_tune(place)
    left = None if seconds is None else seconds - (time.monotonic() - began)
    with ProgressLine(experiment), interrupted_after(left, recorder), Watch(announce) as watch:
        recorder.board = watch.board
        on_interrupt(
            make_tuner(experiment, recorder, place).fit, recorder.interrupt, experiment.how_to_resume, broken=lost
        )
    if recorder.halted is not None:
        raise StorageError(f"{recorder.halted}; no trial has ended by it; {experiment.how_to_resume}")
    if recorder.refused is not None:
        raise UserError(recorder.refused)
    cut_short = any(t.outcome is None and t.waiting is None for t in experiment.trials.values())
    return recorder.interrupted and (cut_short or not scheduler.finished)


@contextlib.contextmanager
def interrupted_after(seconds: float | None, recorder: Recorder) -> Iterator[None]:
    """Ask the running trials to save and end after so many seconds, if the block lasts so long."""
    timer = threading.Timer(max(0.0, seconds or 0.0), recorder.interrupt, ["time is up"])
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def make_tuner(experiment: Experiment, recorder: Recorder, place: Placement) -> tune.Tuner:
    """Ray Tune over the trials that the scheduler wants."""
    options = experiment.options
    scheduler = TuneScheduler(
        recorder.scheduler, place.concurrent, experiment.asked_to_go_on, lambda: recorder.interrupted
    )
    kind = OptunaSpace if experiment.space.file.search == "optuna" else Listed
    retries = 0 if options["workers_per_trial"] else options["max_failures"]  # Ray Train restarts its workers itself
    return tune.Tuner(
        tune.with_resources(Trial, place.resources),
        tune_config=tune.TuneConfig(
            metric="score", mode="min", scheduler=scheduler,
            search_alg=kind(experiment, scheduler, recorder.tune_config), num_samples=experiment.space.trials,
            # A process that trains by itself takes the next trial: one that starts anew takes ten seconds.
            reuse_actors=not options["workers_per_trial"], trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{int(time.time())}", **ray_storage(experiment.location), verbose=0, callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=retries), stop=EndWhenIdle(recorder),
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
