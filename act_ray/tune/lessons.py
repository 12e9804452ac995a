"""What a search has taught: which parameters mattered (fANOVA), and a smaller space around its best trials."""

import math
import warnings
from typing import Any

import optuna

from act_ray.metrics.scores import WORST
from act_ray.outcomes import TrialOutcome
from act_ray.tune.experiment import Experiment
from act_ray.tune.kinds import distribution, endpoints
from act_ray.tune.schedulers import promise
from act_ray.tune.trials import TrialRecord
from act_ray.yamlfile import write_yaml

LEAST = 6  # trials with a score: fewer teach nothing
BEST = 0.25  # of the trials, around which the next space lies, and at least three
MARGIN = 0.25  # of their range, on both sides


def expected(trial: TrialRecord) -> float | None:
    """The log score that a trial had, or that the trend of one that waits promises; None without a score.

    Nor with a rescue: what it scored since is not its settings' own doing.
    """
    if trial.rescues or trial.outcome is TrialOutcome.FAILED:
        return None
    found = math.log(trial.best_score) if trial.best_score and trial.waiting is None else promise(trial.points)
    return found if math.isfinite(found) else None


def importances(experiment: Experiment) -> dict[str, float]:
    """The share of the scores' variance that each parameter explains, the largest first (fANOVA on log scores).

    Hutter et al., 2014, as Optuna has it. Empty where there are too few trials, or nothing varies.
    """
    trials = [(t, value) for t in experiment.trials.values() if (value := expected(t)) is not None]
    specs = {
        name: spec
        for name, spec in experiment.space.specs.items()
        if name != "train.seed" and len({str(t.plan.values[name]) for t, _ in trials}) > 1
    }
    if len(trials) < LEAST or not specs or len({value for _, value in trials}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    distributions = {name: distribution(kind, [*map(_storable, values)]) for name, (kind, values) in specs.items()}
    for trial, value in trials:
        params = {name: _storable(trial.plan.values[name]) for name in specs}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _storable(value: Any) -> Any:
    """Optuna's categories are numbers, texts, booleans and None."""
    return str(value) if isinstance(value, list | tuple | dict) else value


def next_space(experiment: Experiment) -> str | None:
    """A space around the best trials as YAML: their ranges with a margin, and the choices that they made.

    None where there are too few trials.
    """
    trials = [(value, t) for t in experiment.trials.values() if (value := expected(t)) is not None and value < WORST]
    if len(trials) < LEAST:
        return None
    best = [t for _, t in sorted(trials, key=lambda pair: pair[0])[: max(3, round(BEST * len(trials)))]]
    parameters = {
        name: {kind: values if name == "train.seed" else _narrowed(kind, values, [t.plan.values[name] for t in best])}
        for name, (kind, values) in experiment.space.specs.items()
    }
    file = experiment.space.file.model_copy(update={"parameters": parameters, "points": []})
    text = write_yaml(file.model_dump(mode="json", exclude_defaults=True))
    return f"# Around the {len(best)} best of {len(trials)} trials of {experiment.location}\n{text}"


def _narrowed(kind: str, values: list[Any], seen: list[Any]) -> list[Any]:
    if kind in ("choice", "grid"):
        return [value for value in values if value in seen]
    log = kind == "loguniform"
    low, high = (math.log(v) if log else float(v) for v in (min(seen), max(seen)))
    first, last = (math.log(v) if log else float(v) for v in values)
    margin = max(MARGIN * (high - low), 0.02 * (last - first))
    low, high = max(first, low - margin), min(last, high + margin)
    if kind == "randint":
        return [math.floor(low), max(math.floor(low) + 1, min(values[1], math.ceil(high) + 1))]
    rounded = [float(f"{math.exp(v) if log else v:.4g}") for v in (low, high)]
    return [max(rounded[0], float(values[0])), min(rounded[1], float(values[1]))]


def describe_lessons(experiment: Experiment) -> list[str]:
    """Lines for the end of a search; writes next_space.yaml. Nothing where there is nothing to say."""
    lines = []
    if found := importances(experiment):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items() if share >= 0.01)
        counted = sum(expected(trial) is not None for trial in experiment.trials.values())
        lines.append(f"what mattered (fANOVA over {counted} trials): {shares}")
        from act_ray.tune.importance import draw_importances  # the end of a search waits for matplotlib, not its start

        trials = [(t, math.exp(value)) for t in experiment.trials.values() if (value := expected(t)) is not None]
        lines.append(f"drawn, with the trials' scores: {draw_importances(experiment, found, trials)}")
    if (text := next_space(experiment)) is not None and _smaller(experiment):
        path = experiment.dir.path / "next_space.yaml"
        experiment.dir.write(path.name, text)
        lines.append(f"a space around the best: {path}")
    return lines


def _smaller(experiment: Experiment) -> bool:
    """Whether anything is drawn, so that a smaller space makes sense."""
    return any(len(set(map(str, endpoints(*spec)))) > 1 for spec in experiment.space.specs.values())
