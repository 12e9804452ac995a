"""Ctrl-C as a request: the run saves a checkpoint and ends."""

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from act_ray.errors import Interrupted

T = TypeVar("T")


def on_interrupt(function: Callable[[], T], ask: Callable[[], None], resume: str) -> T:
    """`function()` in a thread; the first Ctrl-C calls `ask` and waits for the end, a second one raises Interrupted.

    resume: what to type to continue, the message of Interrupted. A handler rather than `except KeyboardInterrupt`: an
    exception may come at any line, and inside Thread.join it leaves a thread that is still running marked as ended
    (CPython issue 90882).
    """
    done, asked = threading.Event(), False
    box: dict[str, Any] = {}

    def call() -> None:
        try:
            box["result"] = function()
        except BaseException as error:
            box["error"] = error
        finally:
            done.set()

    def interrupt(*_: object) -> None:
        nonlocal asked
        if asked:
            raise Interrupted(resume)
        asked = True
        ask()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        threading.Thread(target=call, daemon=True).start()
        while not done.wait(0.2):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    if "error" in box:
        raise box["error"]
    result: T = box["result"]
    return result
