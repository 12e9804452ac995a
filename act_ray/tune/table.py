"""The ranked table that a search ends with, as wide as the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from act_ray.outcomes import TrialOutcome
from act_ray.tune.experiment import Experiment
from act_ray.tune.results import format_value, rank
from act_ray.tune.schedulers import SCHEDULERS
from act_ray.tune.trials import TrialRecord


def make_table(experiment: Experiment, metric: str, console: Console) -> list[Table | str]:
    """What to print: a heading, a row per trial, and below it the reasons that are too long for a row."""
    trials = rank(experiment)
    varying = [name for name in experiment.space.file.parameters if len({str(t.plan.values[name]) for t in trials}) > 1]
    same = [name for name in experiment.space.file.parameters if name not in varying]
    heading = [f"{metric}, lower is better. Trials are ranked by their best score, whose checkpoint is kept."]
    if any(trial.rescues for trial in trials):
        heading.append("Rescued ones are below, by themselves: something was changed in them on the way.")
    totals = {trial.total for trial in trials}
    if len(totals) == 1:
        heading.append(f"Each was planned for {totals.pop():,} steps.")
    if same:
        heading.append("All: " + ", ".join(f"{n} = {format_value(trials[0].plan.values[n])}" for n in same) + ".")
    shown = _columns(experiment, trials, varying, lines=1, padding=1)
    for lines, padding in ((2, 1), (3, 1), (3, 0), (0, 1)):
        if Measurement.get(console, console.options.update(width=10_000), shown).maximum > console.width:
            shown = _columns(experiment, trials, varying, lines=lines, padding=padding)
    reasons = [f"{trial.plan.name}: {reason}" for trial in trials if (reason := long_reason(trial)) is not None]
    return [" ".join(heading), shown, *reasons]


def _columns(
    experiment: Experiment, trials: Sequence[TrialRecord], names: list[str], *, lines: int, padding: int
) -> Table:
    """A column for each parameter, its name over so many lines; with 0 lines one column names them all, and wraps."""
    apart = lines > 0
    out = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False, show_edge=False)
    parameters = [_stack(name, lines) for name in names] if apart else (["parameters"] if names else [])
    flagged = ["flagged"] if any(trial.flag for trial in trials) else []
    rescued = ["rescued"] if any(trial.rescues for trial in trials) else []
    for head in ("trial", *parameters, "best", "at\nstep", "steps\nrun", *flagged, *rescued, "ended"):
        out.add_column(head, no_wrap=head != "parameters", overflow="fold", vertical="bottom" if apart else "top")
    for trial in trials:
        values = [_short(trial.plan.values[name]) for name in names]
        if not apart and names:
            values = [" ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))]
        step = "-" if trial.best_step is None else f"{trial.best_step:,}"
        flag = [trial.flag["signature"] if trial.flag else ""] if flagged else []
        flag += [str(trial.rescues or "")] if rescued else []
        out.add_row(
            f"{trial.plan.index:03d}", *values, format_value(trial.best_score), step, f"{trial.step:,}", *flag,
            short_reason(experiment, trial),
        )  # fmt: skip
    return out


def _stack(name: str, lines: int) -> str:
    """`loss.gp_weight` over two lines, or three: a column is no wider than its longest word."""
    for mark in (".", "_")[: lines - 1]:
        name = name.replace(mark, f"{mark}\n")
    return name


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else format_value(value)


def short_reason(experiment: Experiment, trial: TrialRecord) -> str:
    """How it ended, in a word or two; `flagged` has the signature of a collapse."""
    match trial.outcome:
        case TrialOutcome.PRUNED if trial.prune is not None:
            return "confirmed"
        case TrialOutcome.SCHEDULER:
            return SCHEDULERS[experiment.space.file.scheduler].label
        case None if trial.waits_as is not None:
            return "waits" if trial.waits_as == "waiting" else trial.waits_as
        case None:
            return "not yet"
        case outcome:
            return str(outcome)


def long_reason(trial: TrialRecord) -> str | None:
    """Why a trial did not come to its end, or what it showed all the same; None where there is nothing to say."""
    if trial.flag is not None:
        found = f"{trial.flag['signature']} at step {trial.flag['step']:,}: {trial.flag['message']}"
        if trial.refuted:
            return f"{found}; confirmed at step {trial.flag['confirmed']:,}, wrongly: {best_after(trial)}"
        if trial.outcome is TrialOutcome.PRUNED or trial.waits_as == "confirmed":
            return f"{found}; confirmed at step {trial.flag['confirmed']:,}: {trial.flag['because']}"
        if trial.audited:
            return f"ran on, as an audit, after {found}; confirmed at step {trial.flag['confirmed']:,}"
        return f"ran on after {found}" if trial.outcome is TrialOutcome.COMPLETED else found
    return trial.reason


def best_after(trial: TrialRecord) -> str:
    """What refutes a collapse that was confirmed."""
    return f"its best score, {format_value(trial.best_score)}, came later, at step {trial.best_step:,}"
