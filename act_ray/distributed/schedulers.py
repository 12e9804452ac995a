"""ASHA beside collapse pruning: what each stopped, and why."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from act_ray.training.loop import PRUNED

METRIC, TIME = "score", "images"


class Composed(TrialScheduler):  # type: ignore[misc]
    """Passes results to `inner` (ASHA, or none), but keeps collapsed trials out of its rungs.

    Collapse is found inside the training loop, which sees every step and ends by itself; its last result says so. That
    score must not count as a normal completion at that budget. `stopped` holds a sentence for each trial that `inner`
    stopped.
    """

    def __init__(self, inner: TrialScheduler | None, rungs: list[float]) -> None:
        super().__init__()
        self.inner = inner or FIFOScheduler()
        self.rungs = rungs
        self.stopped: dict[str, str] = {}

    @property
    def metric(self) -> Any:
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # `inner` has its metric from the start: rungs may be refilled before Tune runs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = self.inner.on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP:
            rung = max((r for r in self.rungs if r <= result[TIME]), default=0)
            self.stopped[trial.trial_id] = f"score {result[METRIC]:.4g} misses ASHA's cut at {rung:,.0f} images"
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if result.get("outcome") == PRUNED:
            self.inner.on_trial_remove(tune_controller, trial)
        else:
            self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return f"collapse pruning over {self.inner.debug_string()}"

    def replay(self, trial_id: str, results: Iterable[dict[str, Any]]) -> None:
        """Fill the rungs with what a trial reported before the search was interrupted."""
        trial = SimpleNamespace(trial_id=trial_id)
        self.inner.on_trial_add(None, trial)
        for result in results:
            self.inner.on_trial_result(None, trial, result)
        self.inner.on_trial_remove(None, trial)


def build_scheduler(kind: str, max_images: int, grace: float, reduction: float) -> Composed:
    """`asha` with images seen as its time (a resumed trial's iterations restart, its images do not), or `none`."""
    if kind == "none":
        return Composed(None, [])
    first = max(1, int(grace * max_images))
    asha = AsyncHyperBandScheduler(
        time_attr=TIME, metric=METRIC, mode="min", max_t=max_images, grace_period=first, reduction_factor=reduction
    )
    rungs, at = [], float(first)
    while at <= max_images:
        rungs.append(at)
        at *= reduction
    return Composed(asha, rungs)
