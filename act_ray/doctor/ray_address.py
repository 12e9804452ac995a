"""A Ray cluster by its address: whether it answers, and whether its versions are ours."""

import json
import platform
import socket
import subprocess
import sys
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import ray

from act_ray.doctor.rows import Row, State

ANSWER_S = 5.0
JOIN_S = 40.0


def look(address: str) -> Row:
    """A row. http://HOST:8265 is the address of jobs, HOST:6379 that of the cluster itself, auto of one here."""
    if address.startswith(("http://", "https://")):
        return _jobs(address)
    host, port = urlsplit(f"//{address}").hostname, urlsplit(f"//{address}").port
    if address not in ("auto", "local") and "://" not in address:
        if host is None or port is None:
            return Row("ray", f"{address}: no HOST:PORT", State.MISSING, "as 10.0.0.1:6379, or http://10.0.0.1:8265")
        try:
            socket.create_connection((host, port), ANSWER_S).close()
        except OSError as error:
            why = error.strerror or error
            return Row("ray", f"{address}: no answer: {why}", State.MISSING, "start Ray there, or --address")
    return _join(address)


def _jobs(address: str) -> Row:
    """What the dashboard says of itself."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S) as answer:
            theirs = json.load(answer)["ray_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "reason", None) or error
        return Row("ray", f"{address}: no answer: {why}", State.MISSING, "start Ray there, or --address")
    return _compare(f"{address}: Ray {theirs}", theirs, None)


def _compare(line: str, theirs: str, python: str | None) -> Row:
    ours = ray.__version__
    if theirs != ours or python not in (None, platform.python_version()):
        here = f"here are Ray {ours} and Python {platform.python_version()}"
        return Row(
            "ray", f"{line}; {here}", State.MISSING, f"pip install 'ray=={theirs}'; the same Python on all nodes"
        )
    return Row("ray", line)


def _join(address: str) -> Row:
    """Join it for a moment, in another process: Ray waits long for one that does not answer."""
    command = [sys.executable, "-m", __name__, address]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=JOIN_S)
    except subprocess.TimeoutExpired:
        return Row(
            "ray", f"{address}: cannot be joined in {JOIN_S:g} s", State.MISSING, "start Ray there, or --address"
        )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": "no answer"}
    if "error" in found:
        return Row("ray", f"{address}: cannot be joined: {found['error']}", State.MISSING,
                   "the same Ray and Python on all nodes; or start Ray there")  # fmt: skip
    return Row("ray", f"{address}: Ray {ray.__version__}, {found['nodes']} node(s), {found['CPU']:g} CPUs, "
                      f"{found['GPU']:g} GPUs")  # fmt: skip


def _joined(address: str) -> dict[str, Any]:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # ConnectionError, RuntimeError, ValueError: Ray's message says what it is
        text = str(error).replace("Ray: ", "Ray ").replace("Python: ", "Python ")
        return {"error": " ".join(text.split())}
    have = ray.cluster_resources()
    return {"nodes": sum(node["Alive"] for node in ray.nodes()), "CPU": have.get("CPU", 0), "GPU": have.get("GPU", 0)}


if __name__ == "__main__":
    print(json.dumps(_joined(sys.argv[1])), flush=True)
