"""Ray's own autoscaler on this machine: nodes come for a search's trials, are lost, and go when no trial wants them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.ray_autoscaler import GrowingCluster
from tests.helpers.ray_searches import DEADLINE_S, until
from tests.helpers.tiny_runs import rows
from tests.helpers.tiny_settings import ON_RAY

pytestmark = [pytest.mark.slow, pytest.mark.own_ray]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrowingCluster]:
    """0 to 2 nodes of a CPU each; `home` has the settings, as `ray up` leaves them on the head."""
    with GrowingCluster(cpus=1, most=2, slots=4) as cluster:
        cluster.env |= {"PYTHONUNBUFFERED": "1", "HOME": str(tmp_path_factory.mktemp("home"))}
        cluster.leave_settings(Path(cluster.env["HOME"]))
        yield cluster


def search(folder: Path, *more: str) -> list[str]:
    """Two trials: one ends by its collapse, one hardly moves and goes on until it is terminated."""
    settings = {**ON_RAY, "train.total_steps": 10**6, "checkpoint.every": 20, "eval.every": 20, "optim.lr_d": 1e-6}
    parameters = {"optim.lr_g": {"grid": [1e3, 1e-6]}}
    space = {"preset": "digits", "set": settings, "scheduler": "none", "parameters": parameters}
    (folder / "space.yaml").write_text(json.dumps(space))
    command = [sys.executable, "-m", "act_ray.tune", "--space", str(folder / "space.yaml"), "--name", "search"]
    return [*command, "--storage", str(folder), *more]


def refused(env: dict[str, str], folder: Path, *more: str) -> str:
    """The line with which the command refuses."""
    done = subprocess.run(search(folder, *more), env=env, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "search").exists()
    return done.stderr.strip().splitlines()[-1]


def test_nodes_come_for_trials_and_go_with_them(cluster: GrowingCluster, tmp_path: Path) -> None:
    """0 nodes, 2, 1 after the prune, none and another one when that is lost, 0."""
    printed, trials = tmp_path / "out", tmp_path / "search/trials"

    def says(what: str) -> bool:
        return re.search(what, printed.read_text()) is not None

    assert cluster.raylets() == []
    command = search(tmp_path, "--shared-storage")
    with printed.open("w") as out, subprocess.Popen(command, env=cluster.env, stdout=out, stderr=out) as run:
        try:
            assert until(lambda: len(cluster.raylets()) == 2)
            assert until(lambda: says("000-.* pruned") and says("001-.* started"))
            assert until(lambda: len(cluster.raylets()) == 1)  # that of the pruned trial is given back
            assert until(lambda: says("001-.* 40/"))
            cluster.lose(*cluster.raylets())
            assert until(lambda: says("001-.* continues"))
            [place] = trials.glob("001-*")
            again = len(rows(place / "metrics.jsonl"))
            assert until(lambda: len(rows(place / "metrics.jsonl")) > again)
        finally:
            run.terminate()
            run.wait(DEADLINE_S)
    assert run.returncode == 143, printed.read_text()
    assert says("2 at a time .up to 2 fit: 1 CPU per trial, 0 here, at most 2.")
    assert says("2 trials wait for 1 CPU each: 0 of 2 nodes up, the autoscaler has asked for 2")
    assert says("1 trial waits for 1 CPU: [01] of 2 nodes up")  # the lost one is up until its heartbeats are missed
    assert not says("Traceback")
    resumed = rows(place / "events.jsonl")[1]
    assert (resumed["event"], resumed["step"] >= 20, resumed["step"] % 20) == ("resumed", True, 0)
    steps = [row["step"] for row in rows(place / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert until(lambda: cluster.raylets() == [])


def test_what_no_node_can_give_is_refused(cluster: GrowingCluster, tmp_path: Path) -> None:
    """At once where the settings of `ray up` say what may come; else once the autoscaler has been asked in vain."""
    assert "grows to 2 (2 worker of 1 CPU); at most 2 workers" in refused(
        cluster.env, tmp_path, "--shared-storage", "--workers-per-trial", "3"
    )
    (tmp_path / "pod").mkdir()
    said = refused(cluster.env | {"HOME": str(tmp_path / "pod")}, tmp_path, "--shared-storage")
    assert said.endswith("a trial needs 1 GPU, and the autoscaler has no nodes that give it; try --cpu")
    assert "adds nodes when trials want them" in refused(cluster.env, tmp_path)
    assert cluster.raylets() == []
