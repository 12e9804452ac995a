"""Runs the training loop on Ray Train: W data-parallel workers, restarted from their checkpoint when one is lost."""

from collections.abc import Callable
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from act_ray import settings
from act_ray.config import Config
from act_ray.device import prepare_process
from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.runs.storage import join
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from act_ray.train.run import Report

Hook = Callable[[Report], None]


class _Forward(ray.train.UserCallback):  # type: ignore[misc]
    """Hands rank 0's reports to the process that called fit (runs in Train's controller)."""

    def __init__(self, put: Hook) -> None:
        self.put = put

    def after_report(self, run_context: Any, metrics: list[Report], checkpoint: Any) -> None:
        self.put(metrics[0])


def worker_loop(job: dict[str, Any]) -> Report | UserError:
    """What each worker runs. A user's mistake is returned: raised, it would come back as a traceback."""
    context = ray.train.get_context()
    cfg = settings.build(job["config"])
    prepare_process(cfg, context.get_local_world_size())
    report: Report = {}
    try:
        # On NFS the lock of a node that was lost outlives it by its lease, 90 s.
        for report in train(cfg, RunFolder(job["location"], lock_wait_s=120), Ranks(get_device())):
            ray.train.report(report)
    except UserError as error:
        return type(error)(*error.args)  # without the traceback, which does not travel
    return report


def fit(
    cfg: Config, location: str, workers: int, *, gpu: bool = False, max_failures: int = 3, on_report: Hook | None = None
) -> Report:
    """Train `cfg` in `location` on `workers` Ray Train workers; returns the last report.

    A lost worker or node costs the steps since the last checkpoint and one of `max_failures`. Raises UserError for a
    mistake that shows only in the workers, and what Ray Train raises when the failures are used up.
    """
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"config": cfg.model_dump(mode="json"), "location": location},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu),
        # An hour: the others wait while one node decodes the data or the first worker scores all real images, once.
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=3600),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=join(location, "ray"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            callbacks=[_Forward(on_report)] if on_report else [],
        ),
    )
    result = trainer.fit().return_value
    if isinstance(result, UserError):
        raise result
    assert isinstance(result, dict)
    return result
