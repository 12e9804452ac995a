"""Runs act_ray.doctor.inside, and outlives it: what it finds, or how it ended."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from act_ray.doctor.machine import peak_memory
from act_ray.doctor.rows import Row, State
from act_ray.files import in_units

STUCK_S = 180.0  # for all before the first step


@dataclass(frozen=True)
class Child:
    """A Python process that may run out of memory. lines: what it prints. errors: what it writes to stderr."""

    process: "subprocess.Popen[str]"
    lines: IO[str]
    errors: IO[str]

    def out_of_memory(self) -> bool:
        """Whether it was killed, as when memory runs out."""
        return self.process.wait() == -signal.SIGKILL

    def failure(self) -> str | None:
        """How it failed, where that is our bug: its traceback goes to stderr."""
        if (code := self.process.wait()) == 0 or self.out_of_memory():
            return None
        self.errors.seek(0)
        errors = self.errors.read()
        sys.stderr.write(errors)
        return f"failed with exit code {code}: {next(reversed(errors.strip().splitlines()), '')}"


@contextlib.contextmanager
def child(*command: str) -> Iterator[Child]:
    """`python COMMAND`, which is killed at the end of the block, however that comes.

    In a session of its own: Ctrl-C on a terminal would reach it as well, and it would answer with a traceback.
    """
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield Child(process, process.stdout, errors)
        finally:
            process.kill()


class Watch:
    """Watches a process: its peak memory, and whether its time is over. `limit`: seconds from the first step on."""

    def __init__(self, process: "subprocess.Popen[str]", limit: float) -> None:
        self.process, self.limit = process, limit
        self.peak, self.over, self.stepping = 0, False, False
        self.deadline = time.monotonic() + STUCK_S
        threading.Thread(target=self._watch, daemon=True).start()

    def step_begins(self) -> None:
        """From here on the limit counts."""
        self.stepping, self.deadline = True, time.monotonic() + self.limit

    def step_ends(self) -> None:
        """It has been heard of."""
        self.stepping, self.deadline = False, math.inf

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.peak = max(self.peak, peak_memory(self.process.pid) or 0)
            if time.monotonic() > self.deadline and not self.over:
                self.over = True
                self.process.kill()
            time.sleep(0.05)


def look_inside(inside: Child, limit: float) -> Iterator[Row]:
    """The rows of act_ray.doctor.inside as they come; a process that is killed, or has to be, is a row as well."""
    watch = Watch(inside.process, limit)
    for line in inside.lines:
        message = json.loads(line)
        if "step" in message:
            watch.step_begins()
        else:
            if watch.stepping:
                watch.step_ends()
            yield Row(**message)
    yield from ending(inside, watch)


def ending(inside: Child, watch: Watch) -> Iterator[Row]:
    """What is to be said of a process that did not end by itself, and well."""
    so_far = f"memory so far: {in_units(watch.peak)}"
    if watch.over and watch.stepping:
        yield Row("step", f"not measured in {watch.limit:g} s; {so_far}", State.WARNING, "a larger --limit; or a GPU")
    elif watch.over:
        yield Row("step", f"nothing was heard in {STUCK_S:g} s", State.MISSING, "is the data's store reachable?")
    elif inside.out_of_memory():
        yield Row("memory", f"a step was killed, as when memory runs out; {so_far}", State.MISSING,
                  "set train.micro_batch, or a smaller network; or fewer other processes")  # fmt: skip
    elif what := inside.failure():
        yield Row("step", what, State.MISSING, "see above")
