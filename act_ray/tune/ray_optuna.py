"""Optuna's TPE over a search space: Ray Tune's OptunaSearch with constraints, indices and a memory of past trials."""

import logging
from collections.abc import Callable
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from act_ray.errors import UserError
from act_ray.metrics.scores import WORST, finite_or_worst
from act_ray.outcomes import RunOutcome, TrialOutcome
from act_ray.tune.experiment import Experiment, TrialPlan

TRIES = 1000


class OptunaSpace(Searcher):  # type: ignore[misc]
    """Suggests trials that the constraints admit; a collapsed trial counts as the worst, whatever its last score."""

    def __init__(self, experiment: Experiment, tune_config: Callable[[TrialPlan], dict[str, Any]]) -> None:
        super().__init__(metric="score", mode="min")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        self.experiment, self.tune_config = experiment, tune_config
        space = {name: distribution(*spec) for name, spec in experiment.space.specs.items()}
        # Seeded by how much is known already, so that a resumed search does not draw its first trials again.
        seed = experiment.space.file.seed + len(experiment.trials)
        self.inner = OptunaSearch(space=space, metric="score", mode="min", seed=seed)
        self.to_continue = experiment.remaining()
        self.next_index = max(experiment.trials, default=-1) + 1
        for trial in experiment.trials.values():
            if trial.outcome not in (None, TrialOutcome.FAILED) and trial.last:
                score = WORST if trial.outcome == TrialOutcome.PRUNED else finite_or_worst(trial.last["score"])
                self.inner.add_evaluated_point(trial.plan.values, score)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.to_continue:
            return {"trial": self.tune_config(self.to_continue.pop(0))}
        for attempt in range(TRIES):
            values = self.inner.suggest(trial_id)
            if self.experiment.space.refusal(values) is None:
                plan = self.experiment.plan(self.next_index, values)
                self.next_index += 1
                return {"trial": self.tune_config(plan)}
            # Tell Optuna that this one is not to be had, and ask again.
            self.inner._ot_trials[f"{trial_id}/{attempt}"] = self.inner._ot_trials.pop(trial_id)
            self.inner.on_trial_complete(f"{trial_id}/{attempt}", {"score": WORST})
        raise UserError(f"search space: none of {TRIES:,} suggestions keeps to the constraints")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self.inner._ot_trials:
            return  # a trial continued from before an interruption: Optuna did not suggest it in this process
        outcome = result.get("outcome") if result is not None else None
        if outcome == RunOutcome.PRUNED:
            result = {**(result or {}), "score": WORST}
        if outcome in (RunOutcome.STOPPED, TrialOutcome.FAILED):  # no score to learn from
            result, error = None, True
        self.inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the experiment's own log is the memory (Tune would pickle)."""
        open(checkpoint_path, "wb").close()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see save."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def distribution(kind: str, values: list[Any]) -> optuna.distributions.BaseDistribution:
    """Optuna's name for a parameter of a search space."""
    match kind:
        case "uniform" | "loguniform":
            return optuna.distributions.FloatDistribution(*values, log=kind == "loguniform")
        case "randint":
            return optuna.distributions.IntDistribution(values[0], values[1] - 1)
        case _:
            return optuna.distributions.CategoricalDistribution(values)
