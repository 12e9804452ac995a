"""Ray Tune's schedulers beside collapse pruning: what each stopped, and why.

They can be driven without a running search: `add`, `report` and `remove` know a trial by its index.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from act_ray.metrics.scores import finite_or_worst
from act_ray.outcomes import RunOutcome
from act_ray.tune.schedulers import Budget

METRIC, TIME = "score", "images"


class CollapseAware(TrialScheduler):  # type: ignore[misc]
    """Passes results to `inner`, one of Ray's schedulers, but keeps collapsed trials out of its rungs.

    Collapse is found inside the training loop, which sees every step and ends by itself; its last result says so. That
    score must not count as a normal completion at that budget. `inner` knows a trial by its index in the search, which
    an interruption does not change. `stopped` holds a sentence for each trial that `inner` stopped, by that index.
    """

    def __init__(self, inner: TrialScheduler, label: str, rungs: Iterable[float] = ()) -> None:
        super().__init__()
        self.inner, self.label, self.rungs = inner, label, list(rungs)
        self.stopped: dict[int, str] = {}

    # ------------------------------------------------------------------------------------------ by index

    def add(self, index: int) -> None:
        """A trial begins, or goes on."""
        self.inner.on_trial_add(None, trial_of(index))

    def report(self, index: int, result: dict[str, Any]) -> bool:
        """Take a trial's score at its images so far; whether it is to stop (`stopped` then says why)."""
        result = {**result, METRIC: finite_or_worst(result[METRIC])}
        stop = bool(self.inner.on_trial_result(None, trial_of(index), result) == TrialScheduler.STOP)
        if stop:
            rung = max((r for r in self.rungs if r <= result[TIME]), default=0)
            self.stopped[index] = f"score {result[METRIC]:.4g} misses {self.label}'s cut at {rung:,.0f} images"
        return stop

    def remove(self, index: int) -> None:
        """A trial is over, and is not to be compared with others at the images that it ended at."""
        self.inner.on_trial_remove(None, trial_of(index))

    def replay(self, index: int, results: Iterable[dict[str, Any]]) -> None:
        """Fill the rungs with what a trial reported before the search was interrupted."""
        self.add(index)
        for result in results:
            self.inner.on_trial_result(None, trial_of(index), {**result, METRIC: finite_or_worst(result[METRIC])})
        self.remove(index)

    # ------------------------------------------------------------------------------------------ as Tune calls it

    @property
    def metric(self) -> Any:
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # `inner` has its metric from the start: rungs may be refilled before Tune runs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.add(index_of(trial))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_error(tune_controller, trial_of(index_of(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = TrialScheduler.STOP if self.report(index_of(trial), result) else TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if result.get("outcome") == RunOutcome.COMPLETED:
            result = {**result, METRIC: finite_or_worst(result[METRIC])}
            self.inner.on_trial_complete(tune_controller, trial_of(index_of(trial)), result)
        else:
            self.remove(index_of(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.remove(index_of(trial))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return f"collapse pruning over {self.inner.debug_string()}"


def index_of(trial: Any) -> int:
    """A Tune trial's index in the search."""
    index: int = trial.config["trial"]["index"]
    return index


def trial_of(index: int) -> Any:
    """What `inner` is shown of a trial: an id that is the same after an interruption."""
    return SimpleNamespace(trial_id=f"trial-{index}")


# ---------------------------------------------------------------------------------------------- by name


def asha(budget: Budget) -> CollapseAware:
    """ASHA with images as its time: a resumed trial's iterations begin again, its images do not."""
    inner = AsyncHyperBandScheduler(
        time_attr=TIME, metric=METRIC, mode="min", max_t=budget.images, grace_period=budget.first,
        reduction_factor=budget.reduction,
    )  # fmt: skip
    return CollapseAware(inner, "ASHA", budget.rungs())


def never_stop() -> CollapseAware:
    """Every trial runs to its end, unless it collapses."""
    return CollapseAware(FIFOScheduler(), "no scheduler")
