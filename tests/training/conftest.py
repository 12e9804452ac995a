"""The cache that all tests of this folder share, and the runs that others are compared with."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import AUGMENTED, go, tiny


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before, threads = os.environ.get("ACT_RAY_CACHE"), torch.get_num_threads()
    os.environ["ACT_RAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(1)  # also what makes it safe to train in a forked child
    yield
    torch.set_num_threads(threads)
    del os.environ["ACT_RAY_CACHE"]
    if before is not None:
        os.environ["ACT_RAY_CACHE"] = before


@pytest.fixture(scope="session")
def whole(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    go(tiny(), folder)
    return folder


@pytest.fixture(scope="session")
def whole_augmented(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with augmentation."""
    folder = tmp_path_factory.mktemp("whole_augmented")
    go(tiny(AUGMENTED), folder)
    return folder
