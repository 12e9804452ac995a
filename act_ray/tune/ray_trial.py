"""One trial of the search: the training loop in the trial's own process, or a Ray Train run of W workers."""

import math
import threading
from collections.abc import Iterator
from typing import Any

import ray
import ray._private.state
from ray import tune
from ray.util.queue import Empty, Queue

from act_ray import settings
from act_ray.config import Config
from act_ray.device import best_device, prepare_process
from act_ray.errors import StorageError, UserError
from act_ray.metrics.scores import WORST
from act_ray.outcomes import HALTED, Report, TrialOutcome
from act_ray.ray_watch import beating
from act_ray.runs.folder import RunFolder
from act_ray.runs.pulse import Pulse
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from act_ray.train.ray_workers import fit

STOP_WAIT_S = 120.0  # a stopped trial's workers get this long to save and return


class Trial(tune.Trainable):  # type: ignore[misc]
    """Tune's view of a run: one step() per evaluation. A stop reaches the workers as a request, never as a kill.

    Its config is {"trial": {"index", "audit", "config", "location", "workers", "gpu", "max_failures"}}.
    """

    unsaved: StorageError | None = None

    def setup(self, config_: dict[str, Any]) -> None:
        told = config_["trial"]
        cfg = settings.build(told["config"])
        self.pulse = Pulse(cfg.train.hang_timeout)
        self.beating = beating(told["board"], f"trial {told['index']:03d}", self.pulse)
        self.beating.__enter__()
        self.reports = (
            reports_from_workers(cfg, told["location"], told["workers"], told["gpu"], told["max_failures"])
            if told["workers"]
            else reports_in_process(cfg, told["location"], told["gpu"], self.pulse)
        )

    def step(self) -> dict[str, Any]:
        try:
            if self.unsaved is not None:
                raise self.unsaved
            report = next(self.reports)
        except StorageError as error:  # the trial has not ended: it goes on from its checkpoint
            report = {"score": WORST, "images": 0, "outcome": HALTED, "reason": str(error)}
        except UserError as error:
            report = {"score": WORST, "images": 0, "outcome": TrialOutcome.FAILED.value, "reason": str(error)}
        return {**report, "done": report["outcome"] is not None}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The process takes another trial, or goes on with one that waited."""
        self.cleanup()
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The scheduler lets the trial wait: it saves in its own folder. Tune's checkpoint is empty."""
        self.cleanup()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """The trial goes on: `setup` has found its own newest checkpoint."""

    def cleanup(self) -> None:
        """The scheduler stopped the trial, or it is over: let it save, and wait for its workers to be gone.

        Where it cannot save it goes on later from the checkpoint before: it has not failed. What this process is asked
        for next says so, if no other trial has.
        """
        try:
            self.reports.close()  # type: ignore[attr-defined]
        except StorageError as error:
            self.unsaved = error
        self.beating.__exit__(None, None, None)


def reports_in_process(cfg: Config, location: str, gpu: bool, pulse: Pulse) -> Iterator[Report]:
    """The loop in this process."""
    prepare_process(cfg, 1)
    yield from train(cfg, RunFolder(location), Ranks(best_device(gpu)), pulse, taken_away)


def taken_away() -> float | None:
    """See train/notice.py: Ray's notice for the node of this process."""
    deadline = ray._private.state.state.get_draining_nodes().get(ray.get_runtime_context().get_node_id())
    return None if deadline is None else deadline / 1000 or math.inf


def reports_from_workers(cfg: Config, location: str, workers: int, gpu: bool, max_failures: int) -> Iterator[Report]:
    """A Ray Train run in a thread; its reports come through a queue of one, so that neither side runs ahead."""
    queue = Queue(maxsize=1, actor_options={"num_cpus": 0})
    errors: list[BaseException] = []

    def call() -> None:
        try:
            fit(cfg, location, workers, gpu=gpu, max_failures=max_failures, on_report=queue.put)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        while True:
            alive = thread.is_alive()  # before the look: what it put last is then seen
            try:
                report: Report = queue.get(timeout=0.25)
            except Empty:
                if alive:
                    continue
                if errors:
                    raise errors[0] from None
                return
            yield report
            if report["outcome"] is not None:
                thread.join(STOP_WAIT_S)
                return
    finally:
        _stop_workers(thread, queue, location)


def _stop_workers(thread: threading.Thread, queue: Queue, location: str) -> None:
    """Ask the workers to stop, keep the queue empty so that none blocks, and wait."""
    if thread.is_alive():
        RunFolder(location).request_stop()
    waited = 0.0
    while thread.is_alive() and waited < STOP_WAIT_S:
        try:
            queue.get(timeout=0.25)
        except Empty:
            waited += 0.25
    queue.shutdown()
