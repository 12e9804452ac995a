"""Tune's view of a run, without Ray: what a storage that is full does to a trial that is asked to save."""

import contextlib
from collections.abc import Iterator

from act_ray.errors import StorageError
from act_ray.outcomes import HALTED, Report
from act_ray.tune.ray_trial import Trial


def test_a_trial_that_cannot_save_when_it_is_to_wait_has_not_failed() -> None:
    """Tune would count an error here as the trial's own; the next thing that the process is asked for says so."""

    def reports() -> Iterator[Report]:
        try:
            yield {"outcome": None, "score": 1.0}
        finally:
            raise StorageError("no room")

    trial = Trial.__new__(Trial)
    trial.reports, trial.beating = reports(), contextlib.ExitStack()
    assert trial.step()["done"] is False
    trial.save_checkpoint("")
    told = trial.step()
    assert (told["outcome"], told["reason"], told["done"]) == (HALTED, "no room", True)
