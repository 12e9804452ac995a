"""Runs the training loop on Ray Train: W data-parallel workers, restarted from their checkpoint when one is lost."""

import math
import threading
from collections.abc import Callable
from typing import Any

import ray.train
from ray.exceptions import ActorDiedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from act_ray import settings
from act_ray.config import Config
from act_ray.device import prepare_process
from act_ray.errors import UserError
from act_ray.outcomes import Report
from act_ray.ray_gauges import Gauges
from act_ray.ray_watch import Watch, beat, beating
from act_ray.runs.folder import RunFolder
from act_ray.runs.interrupt import was_interrupted
from act_ray.runs.patient import ray_storage
from act_ray.runs.pulse import Pulse

Hook = Callable[[Report], None]


class _Forward(ray.train.UserCallback):  # type: ignore[misc]
    """Runs in Train's controller: hands rank 0's reports to the process that called fit, and says that it lives."""

    def __init__(self, put: Hook | None, name: str, board: str, pulse: Pulse) -> None:
        self.put, self.board, self.pulse, self.beats = put, board, pulse, False
        self.name = name
        self.gauges: Gauges | None = None  # made in the controller

    def after_report(self, run_context: Any, metrics: list[Report], checkpoint: Any) -> None:
        if not self.beats:  # nothing of ours runs in the controller before its first report
            self.beats, over = True, threading.Event()  # which is when its process is over
            about = (self.board, "Ray Train's controller", self.pulse, over)
            threading.Thread(target=beat, args=about, daemon=True).start()
        if self.put is not None:
            self.put(metrics[0])  # to a search, which has gauges of its own
            return
        self.gauges = self.gauges or Gauges()
        self.gauges.show(self.name, metrics[0])


def taken_away() -> float | None:
    """See train/notice.py: of the nodes of all workers the first one to go."""
    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return info.deadline_ms / 1000 if info.deadline_ms else math.inf


def worker_loop(job: dict[str, Any]) -> Report | UserError:
    """What each worker runs. A user's mistake is returned: raised, it would come back as a traceback.

    The networks' libraries take six seconds to import, and Ray Train's controller, which imports this module, trains
    nothing: so they are imported here.
    """
    from act_ray.train.loop import train
    from act_ray.train.ranks import Ranks

    context = ray.train.get_context()
    cfg = settings.build(job["config"])
    prepare_process(cfg, context.get_local_world_size())
    report, pulse = Report(), Pulse(cfg.train.hang_timeout)
    try:
        # On NFS the lock of a node that was lost outlives it by its lease, 90 s.
        folder = RunFolder(job["location"], lock_wait_s=120)
        with beating(job["board"], f"worker {context.get_world_rank()}", pulse):
            for report in train(cfg, folder, Ranks(get_device()), pulse, taken_away):
                ray.train.report(report)
    except UserError as error:
        return type(error)(*error.args)  # without the traceback, which does not travel
    return report


def fit(
    cfg: Config, location: str, workers: int, *, fewest: int | None = None, gpu: bool = False, max_failures: int = 3,
    on_report: Hook | None = None, say: Callable[[str], None] = lambda line: None, grow_after: float = 60.0,
) -> Report:  # fmt: skip
    """Train `cfg` in `location` on `workers` Ray Train workers; returns the last report.

    A lost worker or node costs the steps since the last checkpoint and one of `max_failures`; one that is stopped, or
    hangs, is killed, and `say` hears of it. fewest: where there is no room for all of them it goes on with as many as
    there is room for, at least so many, and every `grow_after` seconds takes what has become free; None: it waits.
    Raises UserError for a mistake that shows only in the workers, and what Ray Train raises when the failures are used
    up.
    """
    scaling = ray.train.ScalingConfig(
        num_workers=workers if fewest in (None, workers) else (fewest, workers),
        use_gpu=gpu,
        elastic_resize_monitor_interval_s=grow_after,
    )
    for attempt in range(max_failures + 1):
        with Watch(say) as watch:
            try:
                return _fit(cfg, location, scaling, max_failures, on_report, watch.board)
            except ActorDiedError:
                if attempt == max_failures:
                    raise UserError(f"{location}: Ray Train's controller was lost {attempt + 1} times") from None
                if not was_interrupted():  # or else Ray is being left
                    say("Ray Train's controller was lost: another one goes on from the last checkpoint")
    raise AssertionError("unreachable")


def _fit(
    cfg: Config, location: str, scaling: ray.train.ScalingConfig, max_failures: int, on_report: Hook | None, board: str
) -> Report:
    """One Ray Train run; see fit. Raises ActorDiedError where its controller is lost."""
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"config": cfg.model_dump(mode="json"), "location": location, "board": board},
        scaling_config=scaling,
        # An hour: the others wait while one node decodes the data or the first worker scores all real images, once.
        torch_config=TorchConfig(backend="nccl" if scaling.use_gpu else "gloo", timeout_s=3600),
        run_config=ray.train.RunConfig(
            name="ray_train",
            **ray_storage(location),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            callbacks=[_Forward(on_report, RunFolder(location).name, board, Pulse(cfg.train.hang_timeout))],
        ),
    )
    result = trainer.fit().return_value
    if isinstance(result, UserError):
        raise result
    assert isinstance(result, dict)
    return result
