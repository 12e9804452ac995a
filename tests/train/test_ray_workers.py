"""Ray Train for real: two workers equal one, and a mistake comes back (lost ones: tests/faults)."""

import contextlib
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from act_ray import settings
from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train_here
from act_ray.train.ray_workers import fit
from tests.helpers.tiny_settings import ON_RAY


@contextlib.contextmanager
def watched_metrics() -> Iterator[list[str]]:
    """All lines that Prometheus would be given of this node during the block."""
    (node,), seen, over = ray.nodes(), list[str](), threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            with urllib.request.urlopen(
                f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            ) as told:
                seen.extend(told.read().decode().splitlines())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_two_workers_score_like_one(cluster: None, tmp_path: Path) -> None:
    cfg = settings.load("digits", ON_RAY)
    one = train_here(cfg, str(tmp_path / "one"))
    with watched_metrics() as seen:
        two = fit(cfg, str(tmp_path / "two"), workers=2)
    assert [float(line.rpartition(" ")[2]) for line in seen if "act_ray_step{" in line and 'run="two"' in line][-1] > 0
    assert two["outcome"] == one["outcome"] == "completed"
    assert two["score"] == pytest.approx(one["score"], rel=1e-3)
    rows = [[row["loss_f"] for row in RunFolder(str(tmp_path / n)).rows("metrics.jsonl")] for n in ("one", "two")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


@pytest.mark.slow
def test_a_mistake_that_only_workers_see_comes_back_as_one_line(cluster: None, tmp_path: Path) -> None:
    cfg = settings.load("digits", {**ON_RAY, "data.path": "/nowhere"})
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        fit(cfg, str(tmp_path / "run"), workers=1)
