"""One real Ray for all tests of this folder, and the smallest run that is still a whole one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

TINY: dict[str, Any] = {
    "train.total_steps": 12,
    "train.global_batch": 8,
    "train.log_every": 2,
    "train.threads": 1,
    "eval.every": 4,
    "eval.samples": 64,
    "eval.batch": 32,
    "eval.grid": 16,
    "checkpoint.every": 4,
    "model.block_out_channels": [8, 8],
    "model.norm_num_groups": 4,
    "discriminator.layers_per_block": 1,
}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ACT_RAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def cluster(cache: None) -> Iterator[None]:
    """Ray with two CPUs: what two one-worker trials or one two-worker run take, so that any leak blocks the next."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    from act_ray.distributed.cluster import connected

    with connected(cpus=2):
        yield
