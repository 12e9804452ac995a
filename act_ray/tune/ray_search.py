"""Runs a search on Ray Tune, and goes on with an interrupted one."""

import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from act_ray.errors import UserError
from act_ray.ray_cluster import TRIAL_SLOT
from act_ray.runs.folder import RunFolder
from act_ray.runs.interrupt import on_interrupt
from act_ray.runs.storage import join
from act_ray.tune.experiment import COMPLETED, FAILED, PRUNED, SCHEDULER, Experiment, TrialPlan, plan_trial
from act_ray.tune.ray_optuna import OptunaSpace
from act_ray.tune.ray_schedulers import CollapseAware, build_scheduler
from act_ray.tune.ray_trial import Trial
from act_ray.tune.watch import Watch


def search(experiment: Experiment) -> bool:
    """Run the trials that have not ended; everything is in the experiment's folder afterwards.

    True when it was interrupted before all of them had.
    """
    options, file = experiment.options, experiment.space.file
    for plan in experiment.open_plans:
        RunFolder(experiment.trial_location(plan)).clear_stop()  # of an interruption that was not obeyed any more
    place = placement(options["workers_per_trial"], options["concurrent"])
    total = experiment.space.trials
    remaining = total - sum(1 for t in experiment.trials.values() if t.ended)
    if remaining <= 0:
        return False
    scheduler = prepare_scheduler(experiment)
    record = Recorder(experiment, scheduler, place)
    searcher = OptunaSpace(experiment, record.job) if file.search == "optuna" else None
    print(f"{remaining} of {total} trials to run; {place.why}", flush=True)
    retries = 0 if options["workers_per_trial"] else options["max_failures"]  # Ray Train restarts its workers itself
    tuner = tune.Tuner(
        tune.with_resources(Trial, place.resources),
        param_space=None if searcher else {"trial": tune.grid_search([record.entry(p) for p in plans(experiment)])},
        tune_config=tune.TuneConfig(
            metric="score", mode="min", scheduler=scheduler, search_alg=searcher,
            num_samples=remaining if searcher else 1, max_concurrent_trials=place.concurrent, reuse_actors=False,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{int(time.time())}", storage_path=join(experiment.location, "ray"), verbose=0, callbacks=[record],
            failure_config=tune.FailureConfig(max_failures=retries), stop=Closing(record),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Tune's own kills trials after ten seconds; see close
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our own log and folders say more
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(place.concurrent))
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # with verbose=0 the old output is silent, the new one is not
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failed trials are told by Recorder, in one line
    with Watch(experiment, total):
        on_interrupt(tuner.fit, record.close)
    return sum(1 for t in experiment.trials.values() if t.ended) < total


# ---------------------------------------------------------------------------------------------- where


@dataclass(frozen=True)
class Placement:
    """What a trial takes, how many run at a time, and the CPU threads for each of their workers."""

    resources: dict[str, float]
    concurrent: int
    gpu: bool
    threads: int | None
    why: str


def placement(workers: int, concurrent: int | None) -> Placement:
    """Fit trials into the cluster. Raises UserError for what can never run, with the arithmetic.

    A trial with Ray Train workers has a driver besides; it takes a trial_slot of the head node where there are some
    (ours, and the shipped clusters), or a sliver of a CPU.
    """
    have = ray.cluster_resources()
    cpus, gpus, slots = int(have.get("CPU", 0)), int(have.get("GPU", 0)), int(have.get(TRIAL_SLOT, 0))
    gpu = gpus > 0 or (cpus == 0 and slots > 0)  # a cluster that has only its head yet: shipped ones grow by GPUs
    unit, each = ("GPU", gpus) if gpu else ("CPU", cpus)
    need = max(1, workers)
    grows = slots > 0 and (each == 0 or len(ray.nodes()) > 1)  # its slots say how many trials its full size holds
    fit = slots if grows else each // need
    if fit == 0:
        raise UserError(
            f"--workers-per-trial {workers}: a trial needs {need} {unit}s, the cluster has {each}; "
            f"at most {each} workers per trial"
        )
    running = min(concurrent or fit, fit)
    driver: dict[str, float] = {TRIAL_SLOT: 1} if slots else {"CPU": 0.01}
    resources = {"CPU": 1.0, **({"GPU": 1.0} if gpu else {})} if workers == 0 else driver
    why = f"{running} at a time ({'up to ' if grows else ''}{fit} fit: {need} {unit}s per trial, {each} here now)"
    threads = None if grows else max(1, cpus // (running * need))
    return Placement(resources, running, gpu, threads, why)


def plans(experiment: Experiment) -> list[TrialPlan]:
    """Trials of a random or grid search to run: all that have not ended, begun or not."""
    space = experiment.space
    every = [plan_trial(space, i, values) for i, values in enumerate(space.draw())]
    ended = {index for index, trial in experiment.trials.items() if trial.ended}
    return [plan for plan in every if plan.index not in ended]


def prepare_scheduler(experiment: Experiment) -> CollapseAware:
    """ASHA with the rungs as they were before an interruption."""
    file = experiment.space.file
    scheduler = build_scheduler(file.scheduler, experiment.space.largest_budget(), file.grace, file.reduction)
    for index, trial in experiment.trials.items():
        if trial.ended in ("", COMPLETED, SCHEDULER):
            scheduler.replay(index, trial.reports)
    return scheduler


# ---------------------------------------------------------------------------------------------- what happened


class Recorder(tune.Callback):  # type: ignore[misc]
    """Writes the experiment's log from Tune's events, and prints one line for each."""

    def __init__(self, experiment: Experiment, scheduler: CollapseAware, place: Placement) -> None:
        self.experiment, self.scheduler, self.place = experiment, scheduler, place
        self.running: dict[int, TrialPlan] = {}
        self.closing = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore that we do not use: nothing."""
        return {}

    def job(self, plan: TrialPlan) -> dict[str, Any]:
        """What a trial's process needs."""
        settings = plan.config.model_dump(mode="json")
        settings["train"]["threads"] = plan.config.train.threads or self.place.threads
        return {
            "config": settings,
            "location": self.experiment.trial_location(plan),
            "workers": self.experiment.options["workers_per_trial"],
            "gpu": self.place.gpu,
            "max_failures": self.experiment.options["max_failures"],
        }

    def entry(self, plan: TrialPlan) -> dict[str, Any]:
        return {"index": plan.index, "values": plan.values, "job": self.job(plan)}

    def close(self) -> None:
        """Ctrl-C: ask the running trials to save and end; Closing ends the search once they have."""
        self.closing = True
        say(f"interrupted: {len(self.running)} trials are saving their state (Ctrl-C again gives up)")
        for plan in list(self.running.values()):
            RunFolder(self.experiment.trial_location(plan)).request_stop()

    def plan_of(self, trial: TuneTrial) -> TrialPlan:
        entry = trial.config["trial"]
        return plan_trial(self.experiment.space, entry["index"], entry["values"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        plan = self.plan_of(trial)
        known = self.experiment.trials.get(plan.index)
        again = known is not None and bool(known.reports)
        self.experiment.log("trial_started", plan)
        self.running[plan.index] = plan
        if self.closing:
            RunFolder(self.experiment.trial_location(plan)).request_stop()
        values = " ".join(f"{name}={short(value)}" for name, value in plan.values.items())
        say(f"{plan.name} {'continues' if again else 'started'}: {values}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        plan = self.plan_of(trial)
        keys = ("step", "images", "score", "best_score", "diversity", "seconds", "outcome", "pruned_by", "prune_reason")
        report = {key: result[key] for key in keys if key in result}
        if report["outcome"] != FAILED:
            self.experiment.log("reported", plan, report=report)
        if not report["outcome"]:
            say(f"{plan.name} {report['step']:,}/{plan.config.train.total_steps:,}: score {report['score']:.4g}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        plan, report = self.plan_of(trial), trial.last_result
        self.running.pop(plan.index, None)
        outcome = report.get("outcome")
        if outcome == PRUNED:
            self._end(plan, PRUNED, f"{report['pruned_by']}: {report['prune_reason']}")
        elif outcome == COMPLETED:
            self._end(plan, COMPLETED, f"score {report['score']:.4g}")
        elif outcome == FAILED:
            self._end(plan, FAILED, report["prune_reason"])
        elif plan.index in self.scheduler.stopped:
            self._end(plan, SCHEDULER, self.scheduler.stopped[plan.index])
        else:  # somebody asked this run to stop (Ctrl-C, or its STOP file): it stays open for --resume
            say(f"{plan.name} saved at step {report.get('step', 0):,}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        if trial.status == TuneTrial.ERROR:
            self.running.pop(self.plan_of(trial).index, None)
            text = (trial.error_file and open(trial.error_file).read().strip().splitlines()[-1:]) or ["unknown error"]  # noqa: SIM115
            self._end(self.plan_of(trial), FAILED, text[0])

    def _end(self, plan: TrialPlan, how: str, why: str) -> None:
        self.experiment.log("ended", plan, how=how, why=why)
        label = {PRUNED: "pruned", SCHEDULER: "stopped", COMPLETED: "completed", FAILED: "failed"}[how]
        say(f"{plan.name} {label}: {why}")


class Closing(tune.Stopper):  # type: ignore[misc]
    """Ends an interrupted search once no trial runs any more."""

    def __init__(self, record: Recorder) -> None:
        self.record = record

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.record.closing and not self.record.running

    def __getstate__(self) -> dict[str, Any]:
        return {}


def say(line: str) -> None:
    """One line per event, above the progress line."""
    sys.stdout.write(("\r\x1b[K" if sys.stdout.isatty() else "") + line + "\n")
    sys.stdout.flush()


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
