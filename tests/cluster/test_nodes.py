"""Two real Ray nodes on this machine: a run over both is the same; one gives notice, goes, and does not come back."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from act_ray import settings
from act_ray.train.loop import train_here
from tests.helpers.fault_ledger import FULL, note
from tests.helpers.ray_nodes import Nodes
from tests.helpers.ray_searches import DEADLINE_S, until
from tests.helpers.tiny_runs import newest, rows, tensors
from tests.helpers.tiny_settings import ON_RAY

NOTICE_S = 12
STEPS = 600 if FULL else 300
SETTINGS = {**ON_RAY, "train.total_steps": STEPS, "checkpoint.every": 100, "eval.every": 100, "train.log_every": 1}


@pytest.mark.slow
@pytest.mark.own_ray
@pytest.mark.parametrize("workers", [2, 4] if FULL else [2])
def test_workers_over_two_nodes_train_as_those_of_one_node_do(workers: int, tmp_path: Path) -> None:
    """Bit for bit: the losses of each step, the scores, and the weights at the end."""
    (tmp_path / "run.yaml").write_text(settings.dump(settings.load("digits", {**ON_RAY, "train.log_every": 1})))
    command = [
        sys.executable,
        "-m",
        "act_ray.train",
        "--config",
        str(tmp_path / "run.yaml"),
        "--storage",
        str(tmp_path),
    ]
    command += ["--shared-storage", "--workers", str(workers), "--name"]
    with Nodes() as nodes:
        for place, sizes in (("one", {"a": workers}), ("two", {"b": workers // 2, "c": workers // 2})):
            for name, cpus in sizes.items():
                nodes.add(name, cpus)
            done = subprocess.run([*command, place], env=nodes.env, capture_output=True, text=True, timeout=DEADLINE_S)
            assert done.returncode == 0, done.stdout + done.stderr
            for name in sizes:
                nodes.take_away(name)  # no node of the second run has room for all workers
    one, two = tmp_path / "one", tmp_path / "two"
    assert rows(two / "events.jsonl")[0]["workers"] == workers
    assert rows(one / "metrics.jsonl") == rows(two / "metrics.jsonl")
    assert [row["score"] for row in rows(one / "scores.jsonl")] == [row["score"] for row in rows(two / "scores.jsonl")]
    ours, theirs = tensors(newest(one)), tensors(newest(two))
    assert all(ours[name].equal(theirs[name]) for name in ours | theirs)


@pytest.mark.slow
@pytest.mark.own_ray
def test_a_node_that_goes_with_notice_costs_no_step_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Saved at once and before the deadline; then with one worker, on the same batches; FULL: and with two again."""
    place = tmp_path / "run"

    def steps() -> int:
        return len(rows(place / "metrics.jsonl")) if (place / "metrics.jsonl").exists() else 0

    def workers() -> list[tuple[int, int]]:
        return [(row["step"], row["workers"]) for row in rows(place / "events.jsonl") if "workers" in row]

    with Nodes() as nodes:
        nodes.add("a", 1)
        nodes.add("b", 1)
        command = [sys.executable, "-m", "act_ray.train", "--config", str(tmp_path / "run.yaml"), "--name", "run"]
        command += ["--storage", str(tmp_path), "--shared-storage", "--workers", "2", "--min-workers", "1"]
        (tmp_path / "run.yaml").write_text(settings.dump(settings.load("digits", SETTINGS)))
        with (
            (tmp_path / "out").open("w") as out,
            subprocess.Popen(command, env=nodes.env, stdout=out, stderr=out) as run,
        ):
            assert until(lambda: steps() > 10)
            nodes.drain("b", NOTICE_S)
            assert until(lambda: [row for row in rows(place / "events.jsonl") if row["event"] == "note"] != [])
            first = int(newest(place).name.removeprefix("step-"))
            assert until(lambda: int(newest(place).name.removeprefix("step-")) > first)  # just before the deadline
            nodes.take_away("b")
            last = int(newest(place).name.removeprefix("step-"))
            assert steps() == last  # it waits for the end
            shutil.copytree(place, tmp_path / "alone")
            assert until(lambda: len(workers()) == 2)
            assert workers() == [(0, 2), (last, 1)]
            if FULL:
                nodes.add("c", 1)
                assert until(lambda: len(workers()) == 3)
                assert workers()[2][1] == 2
            run.wait(DEADLINE_S)
    printed = (tmp_path / "out").read_text()
    assert run.returncode == 0, printed
    assert "this machine is to be taken away in" in printed
    assert "Traceback" not in printed
    assert [row["step"] for row in rows(place / "metrics.jsonl")] == list(range(STEPS))
    if not FULL:
        train_here(settings.load("digits", SETTINGS), str(tmp_path / "alone"), gpu=False)
        ours, theirs = tensors(newest(place)), tensors(newest(tmp_path / "alone"))
        assert all(ours[name].equal(theirs[name]) for name in ours | theirs)
    note(f"notice of {NOTICE_S} s for a node", "saved; went on with one worker less", 0)
