"""Where Ray Tune gets its trials from: the space's list, or Optuna's TPE with constraints and a memory of trials."""

import logging
from collections.abc import Callable
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from act_ray.errors import UserError
from act_ray.metrics.scores import WORST
from act_ray.outcomes import RunOutcome, TrialOutcome
from act_ray.tune.experiment import Experiment
from act_ray.tune.kinds import distribution
from act_ray.tune.progress_line import announce
from act_ray.tune.ray_schedulers import TuneScheduler
from act_ray.tune.told import compute, earlier, known, promised
from act_ray.tune.trials import TrialPlan, TrialRecord

TRIES = 1000
Told = Callable[[TrialPlan], dict[str, Any]]  # what a trial's process is told


class Listed(Searcher):  # type: ignore[misc]
    """The space's trials, and those that an interruption left, when the scheduler wants one."""

    def __init__(self, experiment: Experiment, scheduler: TuneScheduler, tune_config: Told) -> None:
        super().__init__(metric="score", mode="min")
        self.experiment, self.scheduler, self.tune_config = experiment, scheduler, tune_config

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.scheduler.closed() or self.scheduler.scheduler.finished:  # else Tune asks for a first trial for ever
            return str(Searcher.FINISHED)
        index = self.scheduler.wants_new()
        if index is None:
            return None
        plan = self.experiment.plans.get(index) or self.make(trial_id, index)
        return {"trial": self.tune_config(plan)}

    def make(self, trial_id: str, index: int) -> TrialPlan:
        """A trial that is in no list."""
        raise KeyError(index)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the experiment's own log is the memory (Tune would pickle)."""
        open(checkpoint_path, "wb").close()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see save."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class OptunaSpace(Listed):
    """Suggests trials that the constraints admit; a collapsed trial counts as the worst, whatever its last score.

    A trial that waits for the first time counts with the score that its trend promises; what it does later is not
    told any more.
    """

    def __init__(self, experiment: Experiment, scheduler: TuneScheduler, tune_config: Told) -> None:
        super().__init__(experiment, scheduler, tune_config)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        space = {name: distribution(*spec) for name, spec in experiment.space.specs.items()}
        # Seeded by how much is known already, so that a resumed search does not draw its first trials again.
        seed = experiment.space.file.seed + len(experiment.trials)
        self.objectives = list(experiment.space.file.objectives)
        modes = ["min"] * len(self.objectives)
        self.inner = OptunaSearch(space=space, metric=self.objectives, mode=modes, seed=seed)
        self.indices: dict[str, int] = {}  # of the trials that Optuna suggested in this process
        earlier_ones: list[tuple[dict[str, Any], TrialRecord]] = []
        try:
            earlier_ones += earlier(experiment.space, experiment.options.get("from") or [])
        except UserError as error:  # they were there when the search began
            announce(f"going on without the earlier trials: {error}")
        for values, trial in [*earlier_ones, *((t.plan.values, t) for t in experiment.trials.values())]:
            score = known(trial)
            if score is not None and trial.last is not None:
                found = {"score": score, "compute": compute(trial.last, trial.total)}
                known_values = [found[name] for name in self.objectives]
                params = {name: values[name] for name in space}
                done = optuna.trial.create_trial(values=known_values, params=params, distributions=space)
                self.inner._ot_study.add_trial(done)

    def make(self, trial_id: str, index: int) -> TrialPlan:
        for attempt in range(TRIES):
            values = self.inner.suggest(trial_id)
            if self.experiment.space.refusal(values) is None:
                self.indices[trial_id] = index
                return self.experiment.plan(index, values)
            # Tell Optuna that this one is not to be had, and ask again.
            self.inner._ot_trials[f"{trial_id}/{attempt}"] = self.inner._ot_trials.pop(trial_id)
            self.inner.on_trial_complete(f"{trial_id}/{attempt}", {"score": WORST, "compute": WORST})
        raise UserError(f"search space: none of {TRIES:,} suggestions keeps to the constraints")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        index = self.indices.get(trial_id)
        if index is not None and self.scheduler.scheduler.members[index].state == "waiting":
            del self.indices[trial_id]
            told = promised(self.scheduler.scheduler.members[index].points)
            self.inner.on_trial_complete(trial_id, {"score": told})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        index = self.indices.pop(trial_id, None)
        if index is None:
            return  # it was told when it first waited, or continued from before an interruption
        outcome = result.get("outcome") if result is not None else None
        confirmed = result is not None and result.get("prune/confirmed") is not None
        audited = confirmed and self.experiment.plans[index].audit
        if outcome == RunOutcome.PRUNED or audited or (result or {}).get("rescues"):
            result = {**(result or {}), "score": WORST}
        if outcome in (RunOutcome.STOPPED, TrialOutcome.FAILED):  # no score to learn from
            result, error = None, True
        if result is not None:
            total = self.experiment.plans[index].config.train.total_steps
            result = {"score": result["score"], "compute": compute(result, total)}
        self.inner.on_trial_complete(trial_id, result, error)
