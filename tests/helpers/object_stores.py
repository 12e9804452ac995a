"""An S3 server on this machine, and what goes wrong on the way to one."""

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from act_ray.runs import storage
from act_ray.runs.storage import ObjectStore

BUCKET = "bucket"
START_S = 60.0


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A process that serves S3 (moto) on a free port; the URI of a bucket. pyarrow finds it by the environment."""
    from act_ray.ray_cluster import free_port  # imports Ray, which few tests need

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(port, server)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("ENDPOINT_URL", endpoint)):
                patch.setenv(f"AWS_{name}", value)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")).close()
            yield f"s3://{BUCKET}"
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
    raise AssertionError("the S3 server did not start")


def copied(location: str, into: Path) -> Path:
    """A folder of a store, on this machine."""
    ObjectStore(location).download_folder("", into)
    return into


# ---------------------------------------------------------------------------------------------- what goes wrong


class Flaky:
    """A file system of which a share of the calls fail, drawn from a seed, the path and how often it was asked.

    Half of those are obeyed all the same: the answer was lost. `rate` may change at any time.
    """

    def __init__(self, inner: Any, rate: float) -> None:
        self.inner, self.rate = inner, rate
        self.failed, self._asked, self._lock = 0, Counter[str](), threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(what: Any) -> Any:
            draw = self._draw(f"{name} {getattr(what, 'base_dir', what)}")
            if draw < self.rate / 2:
                raise OSError("AWS Error SLOW_DOWN during a call")
            result = method(what)
            if draw >= self.rate:
                return result
            return _lost(result) if name == "open_output_stream" else _raise()

        return call

    def _draw(self, about: str) -> float:
        with self._lock:
            self._asked[about] += 1
            draw = random.Random(f"{about} {self._asked[about]}").random()
            self.failed += draw < self.rate
        return draw


@contextlib.contextmanager
def _lost(stream: Any) -> Iterator[Any]:
    with stream:
        yield stream
    _raise()


def _raise() -> None:
    raise OSError("AWS Error NETWORK_CONNECTION: the answer was lost")


def flaky(patch: pytest.MonkeyPatch, rate: float) -> list[Flaky]:
    """Every store that is opened from now on is Flaky; those that were."""
    made = list[Flaky]()
    original = storage.open_uri

    def open_uri(uri: str) -> tuple[Any, str]:
        files, base = original(uri)
        made.append(Flaky(files, rate))
        return made[-1], base

    patch.setattr(storage, "open_uri", open_uri)
    return made
