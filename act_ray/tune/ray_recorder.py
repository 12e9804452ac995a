"""What happens in a search: Ray Tune's events into the experiment's log, and one line for each."""

import time
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from act_ray.metrics.scores import WORST
from act_ray.outcomes import HALTED, Report, RunOutcome, TrialOutcome
from act_ray.ray_gauges import Gauges
from act_ray.runs.folder import RunFolder
from act_ray.runs.interrupt import told_soon
from act_ray.runs.tensorboard import FOLDER, EventFiles
from act_ray.tune.experiment import Experiment
from act_ray.tune.progress_line import announce
from act_ray.tune.ray_placement import Placement
from act_ray.tune.ray_schedulers import index_of
from act_ray.tune.ray_waiting import Waiting
from act_ray.tune.results import format_value
from act_ray.tune.schedulers import Scheduler
from act_ray.tune.trials import TrialPlan

KEYS = (
    "step", "images", "score", "best_score", "best_step", "diversity", "seconds", "outcome", "rescues", "given_up",
    "prune",
)  # fmt: skip
CLUSTER_S = 5.0  # between two looks at what Ray has
VERBS = {
    TrialOutcome.COMPLETED: "completed",
    TrialOutcome.PRUNED: "pruned",
    TrialOutcome.SCHEDULER: "stopped",
    TrialOutcome.FAILED: "failed",
}


class Recorder(tune.Callback):  # type: ignore[misc]
    """Tells Tune's trials from each other by their index in the search, under which the experiment has their plans."""

    def __init__(self, experiment: Experiment, scheduler: Scheduler, place: Placement) -> None:
        self.experiment, self.scheduler, self.place = experiment, scheduler, place
        self.running: dict[int, TrialPlan] = {}
        self.saving = set[int]()  # trials that wait, and whose processes are still saving
        self.flagged = set[int]()  # trials whose signature of collapse has been told
        self.rescues: dict[int, int] = {}  # how many have been told of a trial
        self.told_when = False  # the first score comes
        self.board: str | None = None  # where its trials write signs of life
        self.interrupted = False
        self.halted: str | None = None  # how the storage failed, which ends the search until it is mended
        self.event_files: dict[int, EventFiles] = {}
        self.noted = 0.0  # when cluster.json was written
        self.gauges = Gauges(experiment.dir.name)
        self.waiting: Waiting | None = None  # made where Ray is there
        self.refused: str | None = None  # what its trials need and the cluster can never give

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore that we do not use: nothing."""
        return {}

    def tune_config(self, plan: TrialPlan) -> dict[str, Any]:
        """What a trial's process is told; see ray_trial.Trial."""
        settings = plan.config.model_dump(mode="json")
        settings["train"]["threads"] = plan.config.train.threads or self.place.threads
        if plan.config.collapse.action == "stop" and (plan.audit or self.scheduler.waits):
            settings["collapse"]["action"] = "record"  # the scheduler heeds it
        return {
            "index": plan.index,
            "audit": plan.audit,
            "heeded": plan.config.collapse.ends,  # whether the scheduler is told of a signature of collapse
            "config": settings,
            "location": self.experiment.trial_location(plan),
            "workers": self.experiment.options["workers_per_trial"],
            "gpu": self.place.gpu,
            "board": self.board,
            "max_failures": self.experiment.options["max_failures"],
        }

    def interrupt(self, why: str = "interrupted") -> None:
        """Ask the running trials to save and end; EndWhenIdle ends the search once they have."""
        self.interrupted = True
        count = len(self.running)
        doing = f"{count} trial{' saves its' if count == 1 else 's save their'} state" if count else "no trial runs yet"
        announce(f"{why}: {doing}" + (" (Ctrl-C again gives up)" if why == "interrupted" else ""))
        self._stop(*self.running.values())

    def _stop(self, *plans: TrialPlan) -> None:
        """Ask these trials to save and end."""
        locations = [self.experiment.trial_location(plan) for plan in plans]
        if not told_soon(*(partial(_request_stop, location) for location in locations)):
            announce(f"{self.experiment.location} does not answer: trials are told when it does, or end when they "
                     "cannot save there")  # fmt: skip

    def halt(self, reason: str) -> None:
        """The storage fails one trial, so it will fail the others: what they have saved is kept, none is ended."""
        if self.halted is None:
            self.halted = reason
            self.interrupt("the storage fails")  # a STOP file may not find room either: they meet the same error

    def _plan(self, trial: TuneTrial) -> TrialPlan:
        return self.experiment.plans[index_of(trial)]

    def write_event_files(self, plan: TrialPlan, over: bool = False) -> None:
        """What TensorBoard reads of a trial, where it is asked for."""
        if not self.experiment.options.get("tensorboard"):
            return
        try:
            if plan.index not in self.event_files:
                run = RunFolder(self.experiment.trial_location(plan), scratch="views")
                folder = self.experiment.dir.path / FOLDER / plan.name
                self.event_files[plan.index] = EventFiles(run, plan.values, folder)
            if over:
                self.event_files.pop(plan.index).close()
            else:
                self.event_files[plan.index].refresh()
        except (OSError, ValueError) as error:  # a copy: the search goes on without it
            self.experiment.options["tensorboard"] = False
            announce(f"--tensorboard: no more event files: {error}")

    def note_cluster(self, waiting: int) -> None:
        """cluster.json, at most every few seconds: what Ray has and uses, and how many trials wait for a place."""
        if time.monotonic() - self.noted < CLUSTER_S:
            return
        self.noted = time.monotonic()
        has, free = ray.cluster_resources(), ray.available_resources()
        cluster = {"nodes": sum(node["Alive"] for node in ray.nodes()), "waiting": waiting}
        for name, kind in (("cpus", "CPU"), ("gpus", "GPU")):
            cluster |= {name: has.get(kind, 0), f"{name}_used": round(has.get(kind, 0) - free.get(kind, 0), 3)}
        self.experiment.dir.json("cluster.json", {"time": round(time.time(), 3), **cluster})

    def note_waiting(self) -> None:
        """Say what trials without a place wait for; end the search where nothing can give it."""
        self.waiting = self.waiting or Waiting(self.place)
        if (line := self.waiting.look()) is not None:
            announce(line)
        if self.waiting.never is not None and self.refused is None:
            self.refused = self.waiting.never
            self.interrupt("no trial can start")

    # ------------------------------------------------------------------------------------------ as Tune calls it

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self.note_cluster(sum(trial.status == TuneTrial.PENDING for trial in trials))
        if not self.saving:  # a trial that waits is giving its place to the next
            self.note_waiting()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        plan = self._plan(trial)
        before = self.experiment.trials.get(plan.index)
        again = before is not None and bool(before.reports)
        self.experiment.log("trial_started", plan)
        self.running[plan.index] = plan
        if self.interrupted:
            self._stop(plan)
        values = " ".join(f"{name}={format_value(value)}" for name, value in plan.values.items())
        announce(f"{plan.name} {'continues' if again else 'started'}: {values}")
        if not self.told_when:
            self.told_when = True
            announce(f"a trial's first score comes after {plan.config.eval.every:,} of its steps")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        plan = self._plan(trial)
        if result["outcome"] in (TrialOutcome.FAILED, HALTED):
            return
        report = read_report(result)
        self.experiment.log("reported", plan, report=report)
        self.gauges.show(plan.name, report)
        self.write_event_files(plan)
        if report["outcome"] is not None:
            return
        total = plan.config.train.total_steps
        announce(f"{plan.name} {report['step']:,}/{total:,}: score {format_value(report['score'])}")
        if report["rescues"] and self.rescues.get(plan.index, 0) != report["rescues"]:
            self.rescues[plan.index] = report["rescues"]
            announce(f"{plan.name} was rescued, and went back to an earlier step (rescue {report['rescues']})")
        if (flag := report["prune"]) is not None and plan.index not in self.flagged:
            self.flagged.add(plan.index)
            announce(f"{plan.name} flagged: {flag['signature']} at step {flag['step']:,}: {flag['message']}")
        member = self.scheduler.members[plan.index]
        if member.state == "waiting":
            self.running.pop(plan.index, None)
            self.saving.add(plan.index)
            self.experiment.log("waiting", plan, reason=member.why)
            self.write_event_files(plan, over=True)
            announce(f"{plan.name} {member.why}")

    def on_trial_save(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        self.saving.discard(index_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        plan, report = self._plan(trial), trial.last_result
        self.running.pop(plan.index, None)
        match report.get("outcome"):
            case RunOutcome.PRUNED:
                self._end(plan, TrialOutcome.PRUNED, prune=report["prune"])
            case RunOutcome.COMPLETED:
                self._end(plan, TrialOutcome.COMPLETED, prune=report["prune"])
            case TrialOutcome.FAILED:
                self._end(plan, TrialOutcome.FAILED, reason=report["reason"])
            case _ if report.get("outcome") == HALTED:
                self.halt(report["reason"])
            case None if self.scheduler.members[plan.index].why:
                self._end(plan, TrialOutcome.SCHEDULER, reason=self.scheduler.members[plan.index].why)
            case _:  # somebody asked this run to stop (Ctrl-C, or its STOP file): it stays open for --resume
                announce(f"{plan.name} saved at step {report.get('step', 0):,}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        self.saving.discard(index_of(trial))
        if trial.status == TuneTrial.ERROR:
            plan = self._plan(trial)
            self.running.pop(plan.index, None)
            self._end(plan, TrialOutcome.FAILED, reason=last_line(trial.error_file) or "unknown error")

    def _end(
        self, plan: TrialPlan, outcome: TrialOutcome, reason: str | None = None, prune: dict[str, Any] | None = None
    ) -> None:
        self.experiment.log("ended", plan, outcome=outcome.value, reason=reason, prune=prune)
        self.write_event_files(plan, over=True)
        record = self.experiment.trials[plan.index]
        if outcome is TrialOutcome.COMPLETED and record.last is not None:
            reason = f"score {format_value(record.last['score'])}"
        elif outcome is TrialOutcome.PRUNED and prune is not None:
            reason = f"{prune['signature']} at step {prune['step']:,}: {prune['message']}"
        announce(f"{plan.name} {VERBS[outcome]}: {reason}")


class EndWhenIdle(tune.Stopper):  # type: ignore[misc]
    """Ends a search once no trial runs and none is to run, or after an interruption once none runs any more."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.recorder.running or self.recorder.saving:
            return False
        return self.recorder.interrupted or self.recorder.scheduler.finished

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _request_stop(location: str) -> None:
    RunFolder(location).request_stop()


def read_report(result: dict[str, Any]) -> Report:
    """A run's report out of what Tune adds to it; None for a score that there is none of."""
    report = {key: result[key] for key in KEYS}
    return report | {key: None for key in ("score", "best_score") if report[key] >= WORST}


def last_line(path: str | None) -> str | None:
    """The last line of a file that Tune wrote an exception to."""
    if not path:
        return None
    with open(path) as file:
        lines = file.read().strip().splitlines()
    return lines[-1] if lines else None
