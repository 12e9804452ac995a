"""A whole search on an object store that is slow, or fails: what it finds is what it would have found."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from act_ray.runs import checkpoint
from act_ray.train.loop import train_here
from act_ray.tune.experiment import Experiment
from tests.helpers.fault_ledger import FULL, note
from tests.helpers.object_stores import copied, unreliable
from tests.helpers.ray_searches import DEADLINE_S
from tests.helpers.tiny_runs import assert_same_run, rows
from tests.helpers.tiny_settings import ON_RAY

KINDS = {  # share of the calls that fail; seconds that each takes
    "takes 0.3 s for each call": (0.0, 0.3),
    "takes 5 s for each call": (0.0, 5.0),
    "fails 3 calls of 10": (0.3, 0.1),
}
SLOW, SLOWER, FAILS = KINDS


@pytest.mark.slow
@pytest.mark.own_ray
@pytest.mark.parametrize("kind", [FAILS, *([SLOW, SLOWER] if FULL else [])])
def test_a_search_on_a_bad_store_finds_the_same(
    kind: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, place, (rate, delay) = tmp_path / "space.yaml", f"{s3}/{kind.replace(' ', '-')}", KINDS[kind]
    parameters = {"train.seed": {"grid": [0, 1]}}
    space.write_text(json.dumps({"preset": "digits", "set": ON_RAY, "scheduler": "none", "parameters": parameters}))
    command = [sys.executable, "-m", "act_ray.tune", "--storage", place, "--space", str(space), "--name", "s"]
    with unreliable(rate, delay) as store:
        environment = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.server_port}"}
        began = time.monotonic()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True,
                               timeout=DEADLINE_S * (5 if FULL else 1))  # fmt: skip
        took = time.monotonic() - began
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert store.failed >= rate / 2 * store.calls
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "2 trials: 2 ran to their end" in ended.stdout
    monkeypatch.setenv("ACT_RAY_CACHE", str(tmp_path / "elsewhere"))  # what is read is what is there
    search = Experiment.read(f"{place}/s")
    for trial in search.trials.values():
        there, healthy = copied(search.trial_location(trial.plan), tmp_path / trial.plan.name), tmp_path / "healthy"
        for folder in (there / "checkpoints").iterdir():
            checkpoint.verify(folder)
        train_here(trial.plan.config, str(healthy / trial.plan.name), gpu=False)
        assert_same_run(there, healthy / trial.plan.name)
        scores = [row["score"] for row in rows(there / "scores.jsonl")]
        assert [report["score"] for report in trial.reports] == scores
    note(f"an object store that {kind}, search", "the same results, bit for bit", None, took)
