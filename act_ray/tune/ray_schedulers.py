"""Schedulers and Ray Tune: what Tune calls, and Ray's own stopping rules as a `Scheduler`."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from act_ray.metrics.scores import WORST
from act_ray.outcomes import RunOutcome
from act_ray.tune.schedulers import Plan, Scheduler, Sign, Verdict, sign_of

DECISIONS = {
    Verdict.GO: TrialScheduler.CONTINUE,
    Verdict.WAIT: TrialScheduler.PAUSE,
    Verdict.STOP: TrialScheduler.STOP,
}


class TuneScheduler(TrialScheduler):  # type: ignore[misc]
    """What Tune calls. It decides how many trials run, too: Tune's own limit counts those that wait.

    Tune starts by itself what is pending, and what waits only when `choose_trial_to_run` names it. New trials come from
    ray_searchers.py, which asks `wants_new`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        concurrent: int,
        asked: Callable[[], Iterable[int]] = lambda: (),
        closed: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.asked = asked  # the trials that somebody asks to go on
        self.closed = closed  # whether the search was interrupted, and nothing more may start
        self.scheduler, self.concurrent = scheduler, concurrent
        self.known: dict[int, TuneTrial] = {}
        self.audited = set[int]()  # trials that run on after the scheduler was told that they have collapsed

    @property
    def has_room(self) -> bool:
        """Whether another trial may run."""
        running = sum(trial.state == "running" for trial in self.scheduler.members.values())
        return not self.closed() and running + len(self.audited) < self.concurrent

    def wants_new(self) -> int | None:
        """The trial to start, where it is one that Tune does not know yet."""
        index = self.scheduler.next() if self.has_room else None
        return None if index in self.known else index

    # ------------------------------------------------------------------------------------------ as Tune calls it

    @property
    def metric(self) -> Any:
        return "score"

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        index = index_of(trial)
        if index in self.known:  # Tune tries it again after a failure, also one that was to wait and could not save
            self.scheduler.members[index].state = "running"
            return
        self.known[index] = trial
        self.scheduler.begin(index)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        index = index_of(trial)
        if result["outcome"] is not None or index in self.audited:  # on_trial_complete tells of a run's end
            return str(TrialScheduler.CONTINUE)
        if trial.config["trial"]["audit"] and result.get("prune/confirmed") is not None:
            self.audited.add(index)
            self.scheduler.end(index, collapsed=True)
            return str(TrialScheduler.CONTINUE)
        return str(DECISIONS[self._report(trial, result)])

    def _report(self, trial: TuneTrial, result: dict[str, Any]) -> Verdict:
        told = trial.config["trial"]
        sign = sign_of(result.get("prune/signature"), result.get("prune/confirmed"), result["rescues"])
        share = share_of(trial, result)
        heeded = sign if told["heeded"] else Sign.NONE
        return self.scheduler.report(index_of(trial), share, result["score"], heeded, result["seconds"])

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.audited.discard(index_of(trial))
        self.scheduler.end(index_of(trial))

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        index = index_of(trial)
        if index not in self.audited and result.get("outcome") in list(RunOutcome):
            self._report(trial, result)  # Tune hands a run's last report to nobody else
        self.audited.discard(index)
        self.scheduler.end(index, collapsed=result.get("outcome") == RunOutcome.PRUNED)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Tune takes away a trial that does not run, at the end of the search."""

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        for wanted in self.asked():
            self.scheduler.favour(wanted)
        index = self.scheduler.next() if self.has_room else None
        trial = self.known.get(index) if index is not None else None
        if index is None or trial is None or trial.status != TuneTrial.PAUSED:  # it may still be saving
            return None
        self.scheduler.begin(index)
        return trial

    def debug_string(self) -> str:
        return self.scheduler.label


def index_of(trial: Any) -> int:
    """A Tune trial's index in the search."""
    index: int = trial.config["trial"]["index"]
    return index


def share_of(trial: Any, result: dict[str, Any]) -> float:
    """How much of its steps a trial has done."""
    return float(result["step"] / trial.config["trial"]["config"]["train"]["total_steps"])


# ---------------------------------------------------------------------------------------------- Ray's own rules


@dataclass(frozen=True)
class Shown:
    """What Ray's rules are shown of a trial."""

    trial_id: str


class RayRule(Scheduler):
    """One of Ray's schedulers that stop trials, for good.

    A trial with a signature of collapse counts as the worst from then on. Left out, it would make the rule cut among
    the good ones.
    """

    def __init__(self, plan: Plan, rule: TrialScheduler, label: str, rungs: Sequence[float] = ()) -> None:
        super().__init__(plan)
        self.rule, self.label, self.rungs = rule, label, list(rungs)
        self.shown = {index: Shown(f"trial-{index}") for index in self.members}
        self.cut = set[int]()  # what the rule has stopped: it must not be asked again

    def begin(self, index: int) -> None:
        super().begin(index)
        self.rule.on_trial_add(None, self.shown[index])

    def judge(self, index: int, sign: Sign) -> Verdict:
        trial = self.members[index]
        share, score = trial.points[-1]
        if index in self.cut or not self._stops(index, share, WORST if sign else score):
            return Verdict.GO
        self.cut.add(index)
        counted = f"score {score:.4g}" if not sign else "a signature of collapse counts as the worst score, and"
        trial.why = f"{counted} misses {self.label}'s cut at {share:.0%}"
        return Verdict.STOP

    def end(self, index: int, collapsed: bool = False) -> None:
        if collapsed and index not in self.cut:
            for share in self.rungs:
                self._stops(index, share, WORST)
            if isinstance(self.rule, AsyncHyperBandScheduler):  # where it had better scores, too
                for _, recorded in self.rule._trial_info[self.shown[index].trial_id]._rungs:
                    recorded[self.shown[index].trial_id] = -WORST
        super().end(index)

    def _stops(self, index: int, share: float, score: float) -> bool:
        result = {"share": share, "score": score, "training_iteration": len(self.members[index].points)}
        return bool(self.rule.on_trial_result(None, self.shown[index], result) == TrialScheduler.STOP)


def asha(plan: Plan) -> RayRule:
    """ASHA as Ray has it, which stops and never waits."""
    rule = AsyncHyperBandScheduler(
        time_attr="share", metric="score", mode="min", max_t=1.0, grace_period=plan.grace,
        reduction_factor=plan.reduction,
    )  # fmt: skip
    rungs = [plan.grace * plan.reduction**k for k in range(1 + int(-math.log(plan.grace, plan.reduction)))]
    return RayRule(plan, rule, "ASHA", rungs)


def median(plan: Plan) -> RayRule:
    """The median stopping rule of Vizier, as Ray has it."""
    rule = MedianStoppingRule(
        time_attr="share", metric="score", mode="min", grace_period=plan.grace,
        min_time_slice=math.inf,  # with too few trials to compare it would pause, not stop, for the others' sake
    )  # fmt: skip
    return RayRule(plan, rule, "the median rule")
