"""`ray job submit -- python -m act_ray.tune` against a cluster of its own, with a token, to its exit code and log."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from act_ray.ray_cluster import free_port
from tests.helpers.tiny_settings import ON_RAY

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head node on ports of its own; yields the environment that reaches it."""
    dashboard = free_port()
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    env.pop("RAY_ADDRESS", None)
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}", "--include-dashboard=true",
    ]  # fmt: skip
    with open(tmp_path / "head.log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_dashboard(env, process)
        yield env
    finally:
        process.terminate()
        process.wait(60)


def wait_for_dashboard(env: dict[str, str], process: "subprocess.Popen[bytes]") -> None:
    """Until the job server answers somebody who has the token."""
    headers = {"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(env["RAY_API_SERVER_ADDRESS"] + "/api/jobs/", headers=headers)
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert process.poll() is None, "the head node did not start"
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError("the dashboard did not come up")


def submit(env: dict[str, str], name: str, *arguments: str) -> tuple[int, str]:
    """Exit code of `ray job submit`, and the job's whole log (what submit streams may miss the last lines)."""
    address = env["RAY_API_SERVER_ADDRESS"]
    command = [
        RAY, "job", "submit", "--submission-id", name, "--address", address, "--working-dir", str(ROOT),
        "--runtime-env", str(ROOT / "cluster" / "runtime_env.yaml"), "--",
        sys.executable, "-m", "act_ray.tune", *arguments,
    ]  # fmt: skip
    code = subprocess.run(command, env=env, capture_output=True, timeout=300, check=False).returncode
    logs = [RAY, "job", "logs", "--address", address, name]
    return code, subprocess.run(logs, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.slow
@pytest.mark.own_ray
def test_submitted_search_runs_to_its_end_and_a_mistake_fails_the_job(head: dict[str, str], tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    parameters = {"loss.w": {"grid": [0.7, 0.9]}}
    space.write_text(json.dumps({"preset": "digits", "set": ON_RAY, "scheduler": "none", "parameters": parameters}))
    code, log = submit(head, "good", "--space", str(space), "--storage", str(tmp_path), "--name", "job")
    assert code == 0, log
    assert "2 trials: 2 ran to their end" in log
    assert (tmp_path / "job" / "best.png").exists()
    code, log = submit(head, "bad", "--space", "search_spaces/digitz.yaml")
    assert code == 1
    assert "error: --space search_spaces/digitz.yaml: no such file; did you mean 'search_spaces/digits.yaml'?" in log
    assert "Traceback" not in log
