"""What all tests share: a cache of their own, one thread, one Ray, and the runs that others are compared with.

Under pytest-xdist the tests of one file stay in one process, for they share its fixtures. All tests on Ray stay in
one process too, which begins with them: they share one Ray, and together they take longest.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from act_ray.config import Config
from act_ray.core.step import TrainState
from tests.helpers import fault_ledger, sources, toy_networks
from tests.helpers.drifted_run import write_drifted_run
from tests.helpers.object_stores import s3_server
from tests.helpers.tiny_runs import go, tiny
from tests.helpers.tiny_settings import AUGMENTED
from tests.helpers.trained_models import call, make_models

# What the commands print names `python` where that is the one that runs them.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets the other tests starve the trials of those on Ray
torch.set_num_threads(1)  # sums in the same order everywhere; it is also what makes it safe to train in a forked child


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into the group that has to run in one process; those on Ray come first."""
    for item in items:
        on_ray = "cluster" in getattr(item, "fixturenames", ()) or item.get_closest_marker("own_ray")
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else f"{item.path.parent.name}/{item.path.stem}"))
    items.sort(key=lambda item: next(item.iter_markers("xdist_group")).args[0] != "ray")


def pytest_sessionstart() -> None:
    """The faults that were injected last time are forgotten."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        fault_ledger.NOTES.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table of the faults that were injected."""
    if lines := fault_ledger.table():
        terminalreporter.section("injected faults")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from, or left in, the user's own cache; the processes of one test run share theirs."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACT_RAY_CACHE", str(shared / "act_ray_cache"))
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Undo what the code under test does to the number of threads."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cluster(cache: None) -> Iterator[None]:
    """Ray with two CPUs: what two one-worker trials or one two-worker run take, so that any leak blocks the next."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_metrics_report_interval_ms", "500")
    from act_ray.ray_cluster import connected

    with connected(cpus=2):
        yield


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URI of a bucket on an S3 server of this machine."""
    with s3_server() as uri:
        yield uri


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


@pytest.fixture(scope="session")
def drawable(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, augmented and class-conditional: all that a figure can show."""
    folder = tmp_path_factory.mktemp("runs") / "classes"
    go(tiny(AUGMENTED | {"model.num_classes": 10, "model.norm_num_groups": 4}), folder)
    return folder


@pytest.fixture(scope="session")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that drifts: see tests/helpers/drifted_run.py."""
    folder = tmp_path_factory.mktemp("runs") / "drifted"
    write_drifted_run(folder)
    return folder


@pytest.fixture(scope="session")
def models(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small trained models: see tests/helpers/trained_models.py."""
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.fixture
def succeed(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Run `VERB ...` in a folder of its own with the models beside it; returns what it says when it succeeds."""
    monkeypatch.chdir(tmp_path)
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    return lambda line: call(capfd, line).succeeded()


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
