"""An S3 server on this machine, and what goes wrong on the way to one."""

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class Unreliable(ThreadingHTTPServer):
    """Passes calls on to an S3 server, each after `delay` seconds; a share `rate` of them fails.

    Of those a third is told to slow down, a third is refused in a way that pyarrow does not try again, and a third is
    obeyed without an answer.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, rate: float, delay: float) -> None:
        super().__init__(("127.0.0.1", 0), _PassOn)
        self.target, self.rate, self.delay = endpoint.rpartition("/")[2], rate, delay
        self.calls, self.failed, self.lock, self.rng = 0, 0, threading.Lock(), random.Random(0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side went away."""

    def draw(self) -> float:
        """What becomes of the next call: below `rate` it fails."""
        with self.lock:
            self.calls += 1
            drawn = self.rng.random()
            self.failed += drawn < self.rate
        return drawn


class _PassOn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unreliable

    def _answer(self) -> None:
        body = self._body()
        time.sleep(self.server.delay)
        drawn = self.server.draw() / self.server.rate if self.server.rate else 1.0
        if drawn < 1 / 3:
            return self._say(503, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
        if drawn < 2 / 3:
            return self._say(409, b"<Error><Code>OperationAborted</Code><Message>again, please</Message></Error>")
        connection = http.client.HTTPConnection(self.server.target)
        try:
            given = [(name, value) for name, value in self.headers.items() if name.lower() not in OF_THE_CONNECTION]
            connection.request(self.command, self.path, body, dict(given))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if drawn < 1:
            self.close_connection = True  # obeyed, and nothing is said of it
            return None
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in OF_THE_CONNECTION]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        return self._say(answer.status, content, kept, length)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = list[bytes]()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _say(self, status: int, content: bytes, headers: Any = (), length: Any = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


OF_THE_CONNECTION = ("content-length", "transfer-encoding", "connection", "expect", "server")


@contextlib.contextmanager
def unreliable(rate: float, delay: float) -> Iterator[Unreliable]:
    """What stands between the S3 server and the processes that are started with `AWS_ENDPOINT_URL` set to its `uri`."""
    proxy = Unreliable(os.environ["AWS_ENDPOINT_URL"], rate, delay)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
