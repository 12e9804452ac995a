"""Ctrl-C, SIGTERM and SIGHUP as a request: the run saves a checkpoint and ends."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from act_ray.errors import Interrupted, UserError

T = TypeVar("T")
ASK_S = 3.0  # that Ctrl-C waits for an object store
ONE_S = 1.0  # `timeout` and others signal a process and then its group: within so long two are one
LOST = "given up: what came after the last checkpoint is lost"
# What a terminal sends; what Kubernetes, Slurm, systemd and `ray job stop` send; what a terminal that is closed sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []
_threads: list[threading.Thread] = []  # of the last on_interrupt, and of what it asks in the background


def exit_code(on_ctrl_c: int) -> int:
    """Of a command that saved and ended as it was asked to: 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + _received[0] if _received and _received[0] != signal.SIGINT else on_ctrl_c


def was_interrupted() -> bool:
    """Whether a signal came while the last `on_interrupt` waited."""
    return bool(_received)


def leave(code: int) -> NoReturn:
    """Exit, at once where the function that on_interrupt gave up still runs: Python's own end would abort in torch."""
    if any(thread.is_alive() for thread in _threads):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def told_soon(*requests: Callable[[], object]) -> bool:
    """Make these calls side by side; whether all are done within ASK_S. The others go on: a store may come back."""
    done = [threading.Event() for _ in requests]

    def call(request: Callable[[], object], event: threading.Event) -> None:
        with contextlib.suppress(OSError, UserError):
            request()
            event.set()

    threads = [threading.Thread(target=call, args=pair, daemon=True) for pair in zip(requests, done, strict=True)]
    _threads.extend(threads)
    for thread in threads:
        thread.start()
    end = time.monotonic() + ASK_S
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return all(event.is_set() for event in done)


def on_interrupt(
    function: Callable[[], T],
    ask: Callable[[], None],
    resume: str,
    early: Callable[[], str | None] = lambda: None,
    broken: Callable[[], str | None] = lambda: None,
) -> T:
    """`function()` in a thread; the first signal calls `ask` and waits for the end, a later Ctrl-C raises Interrupted.

    early: as long as there is nothing to save, how to go on: the first signal then raises Interrupted with that.
    resume: what to type to continue, the message of Interrupted otherwise.
    broken: asked all the time; why `function` will never end, which then is a UserError.

    A handler rather than `except KeyboardInterrupt`: an exception may come at any line, and inside Thread.join it
    leaves a thread that is still running marked as ended (CPython issue 90882). A signal that is ignored, as nohup does
    with SIGHUP, stays so; machines that take a process down may send several, so a second SIGTERM gives nothing up.
    """
    done, box = threading.Event(), dict[str, Any]()
    _received.clear()

    def call() -> None:
        try:
            box["result"] = function()
        except BaseException as error:
            box["error"] = error
        finally:
            done.set()

    def interrupt(number: int, frame: object) -> None:
        _received.append(number)
        first = box.setdefault("first", time.monotonic())
        if len(_received) == 1:
            if (how := early()) is not None:
                raise Interrupted(how, exit_code(130))
            ask()
        elif number == signal.SIGINT and time.monotonic() - first >= ONE_S:
            raise Interrupted(f"{LOST}; {resume}", exit_code(130))

    with heeding(interrupt):
        _threads[:] = [threading.Thread(target=call, daemon=True)]
        _threads[0].start()
        while not done.wait(0.2):
            if (why := broken()) is not None:
                raise UserError(f"{why}; {resume}")
    if "error" in box:
        raise box["error"]
    result: T = box["result"]
    return result


@contextlib.contextmanager
def heeding(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Send SIGNALS to `handler` within the block, but those that are ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
