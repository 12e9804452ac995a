"""What fits into the hours: trials, their steps, the ends of the search and of the repeats. Arithmetic alone.

All times are seconds. W trials run at a time, and T are planned. freeze-thaw gives the search SHARE of all their steps,
and the winner's settings are trained again with SEEDS new seeds, `waves` of them one after the other. So a trial may
take what is left, over SHARE T / W + waves.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.init.choose import rounded_up
from act_ray.runs.progress import format_seconds
from act_ray.tune.finalists import SEEDS
from act_ray.tune.freeze_thaw import SHARE

RAY = 10.0  # until Ray has started
STARTUP_MOST = 1800.0  # what is said to have taken longer did not: the clock was set
STARTUP = 20.0  # the trials' processes, before each of the two parts that train
REST, REST_LEAST, REST_MOST = 0.05, 25.0, 1800.0  # of the hours: evaluation, export and report
PREPARING = 0.05  # of the hours, as a guess before it is known
TRIALS, TRIALS_LEAST, TRIALS_MOST = 12, 4, 64
FEWER = (TRIALS, 8, 6, TRIALS_LEAST)  # where all would be too short
ROUNDS = 4  # trials for each that runs at a time, at least
STEPS_WANTED, STEPS_LEAST = 400, 100  # of a trial: fewer trials rather than fewer steps; and the bound
STEPS_MOST = 300_000  # what the paper trains for
SCORES = (20, 10, 5)  # of a trial: the most that take no more than SCORING of its time
SCORING = 0.25
CROWDED = 1.15  # steps are slower beside other trials than they were alone
SAFE = 0.95  # of the time left for the repeats: their end is nobody's guess
FINALISTS = 3  # at most


@dataclass(frozen=True)
class Costs:
    """What was measured: seconds of a step and of a score, bytes of a process; GPU memory None without one."""

    step: float
    score: float
    memory: int
    gpu: int | None = None


@dataclass(frozen=True)
class Plan:
    """trials of `steps` each, scored every `every` steps, `at_once` of them; seconds of the three parts."""

    trials: int
    steps: int
    every: int
    at_once: int
    search: float
    repeats: float
    rest: float
    training: float  # share of a trial's time that is training, not scoring


def make_plan(left: float, whole: float, costs: Costs, at_once: int) -> Plan:
    """The plan for what is `left` of the `whole` time.

    Raises UserError, with the least hours, where too few steps would be left for each trial.
    """
    step, rest = costs.step * (CROWDED if at_once > 1 else 1.0), rest_of(whole)
    waves = math.ceil(SEEDS / at_once)
    room = left - rest - RAY - 2 * STARTUP
    for trials in (max(TRIALS, ROUNDS * at_once), *FEWER):
        each = room / (SHARE * trials / at_once + waves)
        scores = next((n for n in SCORES if n * costs.score <= SCORING * each), SCORES[-1])
        steps = int((each - scores * costs.score) / step)
        if steps >= STEPS_WANTED:
            break
    if steps < STEPS_LEAST:
        least = least_hours(whole - left, costs, at_once)
        raise UserError(f"--hours {whole / 3600:g}: too few for {TRIALS_LEAST} trials of {STEPS_LEAST} steps here "
                        f"({costs.step:.2g} s a step); give at least {least:g}, and another --out")  # fmt: skip
    if steps > STEPS_MOST:  # the trials are as long as they may be: more of them
        each = STEPS_MOST * step + scores * costs.score
        trials = min(TRIALS_MOST, max(trials, int((room / each - waves) * at_once / SHARE)))
        steps = STEPS_MOST
    every = max(1, steps // scores)
    steps = every * scores
    each = steps * step + scores * costs.score
    search = SHARE * trials * each / at_once + STARTUP
    return Plan(trials, steps, every, at_once, search, waves * each + STARTUP, rest, steps * step / each)


def trial_hours(hours: float, at_once: int) -> float:
    """What one trial may take, before anything is measured: init chooses a network that learns enough in it."""
    room = max(0.5 * hours * 3600, (1 - PREPARING) * hours * 3600 - rest_of(hours * 3600) - RAY - 2 * STARTUP)
    return room / (SHARE * max(TRIALS, ROUNDS * at_once) / at_once + math.ceil(SEEDS / at_once)) / 3600


def rest_of(whole: float) -> float:
    """Seconds for evaluation, export and report."""
    return min(max(REST * whole, REST_LEAST), REST_MOST)


def least_hours(used: float, costs: Costs, at_once: int) -> float:
    """The least hours that make_plan takes, rounded up; `used`: seconds gone before it."""
    step = costs.step * (CROWDED if at_once > 1 else 1.0)
    each = (STEPS_LEAST + 1) * step + SCORES[-1] * costs.score
    need = used + each * (SHARE * TRIALS_LEAST / at_once + math.ceil(SEEDS / at_once)) + RAY + 2 * STARTUP
    hours = max(need + REST_LEAST, min(need / (1 - REST), need + REST_MOST)) / 3600
    return rounded_up(hours)


def require_hours(hours: float) -> None:
    """Raises UserError for fewer than any machine needs, before anything is measured."""
    least = least_hours(0.0, Costs(0.0, 0.0, 0), 1)
    if hours < least:
        what = "starting Ray, an evaluation and a report"
        raise UserError(f"--hours {hours:g}: too few for {what} alone; give more than {least:g}, rather some hours")


def search_budget(seconds: float, plan: Plan, spent: float = 0.0) -> str:
    """tune's budget for a search that may take so long by the clock: hours of training, summed over trials.

    spent: what its trials have trained already, before an interruption.
    """
    more = max(1.0, (seconds - STARTUP) * plan.at_once * plan.training)
    return f"{(spent + more) / 3600:.6f} hours"


def fit_repeats(seconds: float, startup: float, pace: float, plan: Plan, scored: int) -> tuple[int, int]:
    """(finalists, steps of each run) for what is left; (0, 0) where it is too little for any.

    As many finalists, of the `scored` trials, as can have the steps of the search; then as many steps as fit.
    startup: seconds until the first step. pace: seconds by the clock of a step with its share of scores, as trials had
    it beside each other.
    """
    for count in range(min(FINALISTS, scored), 0, -1):
        waves = math.ceil(SEEDS * count / plan.at_once)
        steps = min(STEPS_MOST, int((seconds - startup) * SAFE / waves / pace))
        if steps >= plan.steps or count == 1:
            return (count, steps) if steps >= STEPS_LEAST // 2 else (0, 0)
    return 0, 0


def measured_pace(rows: Sequence[dict[str, Any]]) -> float | None:
    """Seconds by the clock of a step, scores included: the median between two reports in a row of the same trial.

    rows: of a search's events.jsonl. None without two such reports.
    """
    took, last = list[float](), dict[int, tuple[float, int] | None]()
    for row in rows:
        if "trial" not in row:
            continue
        index = row["trial"]
        if row["event"] != "reported":
            last[index] = None  # it waited, or began
            continue
        before, now = last.get(index), (row["time"], row["report"]["step"])
        if before is not None and now[1] > before[1] and now[0] > before[0]:  # else the clock was set back
            took.append((now[0] - before[0]) / (now[1] - before[1]))
        last[index] = now
    return median(took) if took else None


def measured_startup(rows: Sequence[dict[str, Any]]) -> float | None:
    """Seconds from a search's beginning to its first trial's, the longest where it was interrupted; None without."""
    took, began = list[float](), None
    for row in rows:
        if row["event"] == "search":
            began = row["time"] if row["state"] == "running" else None
        elif row["event"] == "trial_started" and began is not None:
            took.append(row["time"] - began)
            began = None
    return max((seconds for seconds in took if 0 <= seconds < STARTUP_MOST), default=None)


def describe(plan: Plan, costs: Costs, whole: float, used: float) -> Iterator[str]:
    """The plan in a few lines."""
    share = "of the GPU" if costs.gpu is not None else "of memory"
    memory = plan.at_once * (costs.gpu if costs.gpu is not None else costs.memory)
    yield f"time: {format_seconds(whole)} in all, {format_seconds(used)} of them used to prepare and measure"
    yield (f"search: {format_seconds(plan.search)}; {plan.trials} trials of {plan.steps:,} steps, {plan.at_once} at a "
           f"time ({costs.step:.2g} s a step), a score every {plan.every:,}; the most promising go on")  # fmt: skip
    yield (f"repeats: {format_seconds(plan.repeats)}; the best settings, up to {FINALISTS} of them, with {SEEDS} new "
           "seeds each")  # fmt: skip
    yield f"evaluation, export and report: {format_seconds(plan.rest)}"
    yield f"memory: about {in_units(memory)} {share} for {plan.at_once} trial(s)"
