"""A cluster of several Ray nodes on this machine, each a raylet of its own: what can be lost, drained and added."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from act_ray.ray_cluster import free_port
from tests.helpers.ray_searches import until

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
# Asked in a process of its own: a process that has joined one cluster does not join another.
STATE = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print("NODES", json.dumps([[n["NodeID"], n["Alive"], n["Resources"]] for n in ray.nodes()]))
"""  # Ray prints its own lines between, of a node that lags, for one


class Nodes:
    """`with Nodes() as nodes: nodes.add("a", 2)`: a head without CPUs, and nodes with the resource of their name.

    env: what a process needs to join.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))  # a socket's path is short
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        dashboard = free_port()
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {
            "RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "RAY_health_check_period_ms": "1000",
        }  # fmt: skip
        self.head = ["--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        self.head += ["--ray-client-server-port", str(free_port()), f"--temp-dir={self.folder}", "--num-cpus=0"]
        self.head += ["--node-ip-address=127.0.0.1", '--resources={"trial_slot": 8}']
        self.of_the_head: dict[str, str] = {}  # what its environment has besides

    def __enter__(self) -> Self:
        self._start("head", self.head, self.of_the_head)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in list(self.started):
            self.take_away(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, name: str, cpus: int) -> None:
        """A further node; returns when it is there."""
        where = [f"--address=127.0.0.1:{self.port}", "--node-ip-address=127.0.0.1"]
        self._start(name, [*where, f"--num-cpus={cpus}", f'--resources={{"{name}": 1}}'])
        assert until(lambda: name in self.alive())

    def take_away(self, name: str) -> None:
        """All of its processes at once, as a spot machine goes."""
        process = self.started.pop(name)
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            if one.is_running():
                one.send_signal(signal.SIGKILL)
        process.wait()

    def drain(self, name: str, seconds: int) -> None:
        """Give notice that the node goes in so many seconds; nobody takes it away by itself."""
        what = ["drain-node", "--address", f"127.0.0.1:{self.port}", "--node-id", self.alive()[name]]
        what += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        subprocess.run(
            [*RAY, *what, "--deadline-remaining-seconds", str(seconds)], env=self.env, check=True, capture_output=True
        )

    def alive(self) -> dict[str, str]:
        """The nodes' ids by their names."""
        told = subprocess.run([sys.executable, "-c", STATE], env=self.env, check=True, capture_output=True, text=True)
        line = next(line for line in told.stdout.splitlines() if line.startswith("NODES "))
        nodes: list[tuple[str, bool, dict[str, Any]]] = json.loads(line.removeprefix("NODES "))
        return {name: id_ for id_, alive, have in nodes if alive for name in self.started if name in have}

    def _start(self, name: str, arguments: list[str], more: dict[str, str] | None = None) -> None:
        log = (self.folder / f"{name}.log").open("w")
        command = [*RAY, "start", *arguments, "--block"]
        self.started[name] = subprocess.Popen(
            command, env=self.env | (more or {}), stdout=log, stderr=log, start_new_session=True
        )
