"""ASHA beside collapse pruning: what each stopped, and why."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from act_ray.train.loop import COMPLETED

METRIC, TIME = "score", "images"


class CollapseAware(TrialScheduler):  # type: ignore[misc]
    """Passes results to `inner` (ASHA, or none), but keeps collapsed trials out of its rungs.

    Collapse is found inside the training loop, which sees every step and ends by itself; its last result says so. That
    score must not count as a normal completion at that budget. `inner` knows a trial by its index in the search, which
    an interruption does not change. `stopped` holds a sentence for each trial that `inner` stopped, by that index.
    """

    def __init__(self, inner: TrialScheduler | None, rungs: list[float]) -> None:
        super().__init__()
        self.inner = inner or FIFOScheduler()
        self.rungs = rungs
        self.stopped: dict[int, str] = {}

    @property
    def metric(self) -> Any:
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # `inner` has its metric from the start: rungs may be refilled before Tune runs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_add(tune_controller, known(index_of(trial)))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_error(tune_controller, known(index_of(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = self.inner.on_trial_result(tune_controller, known(index_of(trial)), result)
        if action == TrialScheduler.STOP:
            rung = max((r for r in self.rungs if r <= result[TIME]), default=0)
            self.stopped[index_of(trial)] = f"score {result[METRIC]:.4g} misses ASHA's cut at {rung:,.0f} images"
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if result.get("outcome") == COMPLETED:
            self.inner.on_trial_complete(tune_controller, known(index_of(trial)), result)
        else:
            self.inner.on_trial_remove(tune_controller, known(index_of(trial)))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_remove(tune_controller, known(index_of(trial)))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return f"collapse pruning over {self.inner.debug_string()}"

    def replay(self, index: int, results: Iterable[dict[str, Any]]) -> None:
        """Fill the rungs with what a trial reported before the search was interrupted."""
        trial = known(index)
        self.inner.on_trial_add(None, trial)
        for result in results:
            self.inner.on_trial_result(None, trial, result)
        self.inner.on_trial_remove(None, trial)


def index_of(trial: Any) -> int:
    """A Tune trial's index in the search."""
    index: int = trial.config["trial"]["index"]
    return index


def known(index: int) -> Any:
    """What `inner` is shown of a trial: an id that is the same after an interruption."""
    return SimpleNamespace(trial_id=f"trial-{index}")


def build_scheduler(kind: str, max_images: int, grace: float, reduction: float) -> CollapseAware:
    """`asha` with images seen as its time (a resumed trial's iterations restart, its images do not), or `none`."""
    if kind == "none":
        return CollapseAware(None, [])
    first = max(1, int(grace * max_images))
    asha = AsyncHyperBandScheduler(
        time_attr=TIME, metric=METRIC, mode="min", max_t=max_images, grace_period=first, reduction_factor=reduction
    )
    rungs, at = [], float(first)
    while at <= max_images:
        rungs.append(at)
        at *= reduction
    return CollapseAware(asha, rungs)
