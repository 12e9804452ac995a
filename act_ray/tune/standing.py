"""Where a search's trials stand: the scheduler as the log leaves it, and what it holds of a trial, in words."""

from act_ray.outcomes import Report, TrialOutcome
from act_ray.tune.experiment import Experiment
from act_ray.tune.freeze_thaw import FreezeThaw
from act_ray.tune.schedulers import SCHEDULERS, Scheduler, Sign, State, sign_of


def fill_scheduler(experiment: Experiment) -> Scheduler:
    """The space's scheduler, as it was before an interruption."""
    space = experiment.space
    scheduler = SCHEDULERS[space.file.scheduler].build(space.plan(experiment.options.get("budget")))
    for index, trial in experiment.trials.items():
        audited, heeded = trial.audited, trial.plan.config.collapse.ends
        reports = [
            (row["step"] / trial.total, row["score"], shown(row) if heeded else Sign.NONE, row["seconds"])
            for row in trial.reports
            if not audited or row["step"] <= (trial.flag or {})["confirmed"]  # the scheduler knew no more
        ]
        state: State = "over" if trial.outcome is not None else "waiting" if trial.waiting is not None else "running"
        scheduler.replay(index, reports, state)
        if trial.favoured:
            scheduler.favour(index)
        if audited or trial.outcome is TrialOutcome.PRUNED:
            scheduler.end(index, collapsed=True)
    return scheduler


def budget_share(experiment: Experiment) -> float:
    """How much of all its trials' steps a search takes, unless some end early; 1 where that is not known."""
    if experiment.space.file.scheduler != "freeze-thaw":
        return 1.0
    plan = experiment.space.plan(experiment.options.get("budget"))
    return min(1.0, FreezeThaw(plan).budget / plan.trials)


def shown(report: Report) -> Sign:
    """What a trial has shown of a collapse by this report."""
    found = report["prune"] or {}
    return sign_of(found.get("signature"), found.get("confirmed"), report.get("rescues", 0))


def describe_standing(experiment: Experiment, index: int, filled: Scheduler | None = None) -> list[str]:
    """Where a trial that waits stands, and what would have let it go on.

    filled: `fill_scheduler` of the experiment, for who asks of many trials.
    """
    trial = experiment.trials[index]
    if trial.waiting is None or experiment.space.file.scheduler != "freeze-thaw":
        return []
    scheduler = filled or fill_scheduler(experiment)
    assert isinstance(scheduler, FreezeThaw)
    return scheduler.standing(index)
