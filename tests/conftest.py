"""What all tests share: a cache of their own, one thread, one Ray, and the runs that others are compared with."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from act_ray.config import Config
from act_ray.core.step import TrainState
from tests.helpers import sources, toy_networks
from tests.helpers.tiny_runs import AUGMENTED, go, tiny


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from, or left in, the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACT_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in the same order everywhere; it is also what makes it safe to train in a forked child."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cluster(cache: None) -> Iterator[None]:
    """Ray with two CPUs: what two one-worker trials or one two-worker run take, so that any leak blocks the next."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    from act_ray.ray_cluster import connected

    with connected(cpus=2):
        yield


@pytest.fixture(scope="session")
def whole(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    go(tiny(), folder)
    return folder


@pytest.fixture(scope="session")
def whole_augmented(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with augmentation."""
    folder = tmp_path_factory.mktemp("whole_augmented")
    torch.set_num_threads(1)
    go(tiny(AUGMENTED), folder)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("ACT_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pixels() -> np.ndarray:
    """uint8 [10, 8, 8, 3]."""
    return sources.random_pixels()


@pytest.fixture
def labels() -> list[int]:
    return sources.labels_in_turn()


@pytest.fixture
def make_config() -> Callable[..., Config]:
    return toy_networks.load


@pytest.fixture
def make_state() -> Callable[..., TrainState]:
    return toy_networks.toy_state
