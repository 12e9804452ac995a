"""Searches on a real Ray at the smallest size, and waiting for what other processes do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.state import list_actors, list_placement_groups

from act_ray.tune.experiment import Experiment
from act_ray.tune.space_files import parse_space
from tests.helpers.tiny_settings import ON_RAY

DEADLINE_S = 240  # only a failure takes it; a busy machine takes over 60 to start a trial
OPTIONS = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}


def experiment(folder: Path, settings: dict[str, Any] | None = None, workers: int = 0, **fields: Any) -> Experiment:
    """A search of two trials, unless `parameters` says otherwise; `settings` on top of ON_RAY."""
    raw = {"preset": "digits", "set": {**ON_RAY, **(settings or {})}, "scheduler": "none", **fields}
    raw.setdefault("parameters", {"loss.w": {"grid": [0.7, 0.9]}})
    options = {**OPTIONS, "workers_per_trial": workers}
    return Experiment.create(str(folder / "search"), parse_space(raw, "test"), options)


def until(reached: Callable[[], bool]) -> bool:
    """Whether it came true within the deadline; looked at often, never slept out."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if reached():
            return True
        time.sleep(0.05)
    return False


def everything_is_free() -> bool:
    """Whether no trial or run has left anything behind in the tests' Ray of two CPUs."""
    busy = [g for g in list_placement_groups() if g.state not in ("REMOVED",)]
    workers = [a for a in list_actors(filters=[("state", "=", "ALIVE")]) if "TrainWorker" in a.class_name]
    return ray.available_resources().get("CPU") == 2.0 and not busy and not workers


def pids_of(kind: str) -> list[int]:
    """The processes of Ray's actors of a class whose name contains `kind`."""
    actors = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    return [actor.pid for actor in actors if kind in actor.class_name]
