"""A process that is stopped, or hangs in a step, is killed: Ray starts it again, and it goes on from its checkpoint.

Each process under watch writes a line into Ray's key-value store about once a second, from a thread: so it says that it
lives while it decodes or scores, and whether its step hangs. The watch, in the process that drives them, looks whether
the lines change; clocks of two machines are never compared. Of several that are late those that are silent are killed
first: the others wait for them.
"""

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from act_ray.ray_cluster import lost
from act_ray.runs.pulse import Pulse

PERIOD_S = 1.0


@contextlib.contextmanager
def beating(board: str | None, who: str, pulse: Pulse) -> Iterator[None]:
    """Write this process's signs of life to `board` during the block; None: nobody watches."""
    if board is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=beat, args=(board, who, pulse, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def beat(board: str, who: str, pulse: Pulse, over: threading.Event) -> None:
    """See `beating`; until `over`."""
    pid, count = os.getpid(), 0
    key = f"{board}/{uuid.uuid4().hex}".encode()
    about = {"who": who, "node": ray.get_runtime_context().get_node_id(), "pid": pid, "begun": begun(pid)}
    with contextlib.suppress(Exception):  # Ray is going down: nobody listens any more
        while not over.wait(PERIOD_S if count else 0):
            count += 1
            line = {**about, "count": count, "patience": pulse.patience, "hangs": pulse.hangs}
            _internal_kv_put(key, json.dumps(line).encode())
        _internal_kv_del(key)


@dataclass
class Seen:
    """What was last heard of a process, and when (on the watch's clock)."""

    line: dict[str, Any]
    at: float


class Watch:
    """Kills what is late. `board`: what the processes under watch are to be told."""

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.board, self.say = f"act_ray/pulse/{uuid.uuid4().hex}", say
        self.seen: dict[bytes, Seen] = {}
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        with contextlib.suppress(Exception):  # as in _run
            if lost() is None:  # else it would wait a minute for an answer
                _internal_kv_del(self.board.encode(), del_by_prefix=True)

    def _run(self) -> None:
        before = time.monotonic()
        while not self._over.wait(PERIOD_S):
            now = time.monotonic()
            if now - before > 5 * PERIOD_S:  # this process, or the whole machine, was stopped itself
                for seen in self.seen.values():
                    seen.at = now
            before = now
            with contextlib.suppress(Exception):  # Ray is away: what it watches goes with it
                self._look(now)

    def _look(self, now: float) -> None:
        keys = set(_internal_kv_list(self.board.encode()))
        self.seen = {key: seen for key, seen in self.seen.items() if key in keys}
        for key in keys:
            if (text := _internal_kv_get(key)) is None:
                continue
            line = json.loads(text)
            if key not in self.seen or line["count"] != self.seen[key].line["count"]:
                self.seen[key] = Seen(line, now)
        silent = {key: seen for key, seen in self.seen.items() if now - seen.at > seen.line["patience"]}
        hang = {} if silent else {key: seen for key, seen in self.seen.items() if seen.line["hangs"]}
        for late, why in ((silent, "gave no sign of life for {:.0f} s"), (hang, "hangs in a step")):
            for key, seen in late.items():
                _internal_kv_del(key)
                if kill(seen.line):
                    what = why.format(now - seen.at)
                    self.say(f"{seen.line['who']} {what}: killed, to go on from its checkpoint")


def kill(line: dict[str, Any]) -> bool:
    """Kill the process that wrote the line, if it is still there; on its own node."""
    if line["node"] == ray.get_runtime_context().get_node_id():
        return kill_here(line["pid"], line["begun"])
    there = NodeAffinitySchedulingStrategy(line["node"], soft=False)
    task = ray.remote(kill_here).options(num_cpus=0, scheduling_strategy=there)
    return bool(ray.get(task.remote(line["pid"], line["begun"]), timeout=30))


def kill_here(pid: int, since: str) -> bool:
    """Kill a process of this machine, unless another has its number by now."""
    if begun(pid) != since:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def begun(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none of this number, or no Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
