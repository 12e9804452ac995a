"""Runs act_ray.doctor.inside, and outlives it: what it finds, or how it ended."""

import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from act_ray.doctor.machine import peak_memory
from act_ray.doctor.rows import Row, State
from act_ray.files import in_units

STUCK_S = 180.0  # for all before the first step


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


def look_inside(request: dict[str, Any], limit: float, command: list[str] | None = None) -> Iterator[Row]:
    """The rows of act_ray.doctor.inside as they come; a process that is killed, or has to be, is a row as well."""
    command = command or [sys.executable, "-m", "act_ray.doctor.inside", json.dumps(request)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        watch = Watch(process, limit)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                if "step" in message:
                    watch.step_begins()
                else:
                    if watch.stepping:
                        watch.step_ends()
                    yield Row(**message)
            code = process.wait()
        finally:
            process.kill()
        errors.seek(0)
        yield from ending(code, watch, errors.read())


def ending(code: int, watch: Watch, errors: str) -> Iterator[Row]:
    """What is to be said of a process that did not end by itself, and well."""
    so_far = f"memory so far: {in_units(watch.peak)}"
    if watch.over and watch.stepping:
        yield Row("step", f"not measured in {watch.limit:g} s; {so_far}", State.WARNING, "a larger --limit; or a GPU")
    elif watch.over:
        yield Row("step", f"nothing was heard in {STUCK_S:g} s", State.MISSING, "is the data's store reachable?")
    elif code == -signal.SIGKILL:
        yield Row("memory", f"a step was killed, as when memory runs out; {so_far}", State.MISSING,
                  "lower train.global_batch, or a smaller network; or fewer other processes")  # fmt: skip
    elif code:
        sys.stderr.write(errors)  # our bug: its traceback
        last = next(reversed(errors.strip().splitlines()), "")
        yield Row("step", f"failed with exit code {code}: {last}", State.MISSING, "see above")
