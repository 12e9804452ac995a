"""auto.json: what a call has done, what it found out, and how much of its time is used. Written whole at each change.

The clock counts the time that a process was at work: `sessions` has a beginning and a last sign of life for each, so a
call that was killed, and is given again a day later, has as much time left as it had then.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from act_ray import jsonfile
from act_ray.errors import StorageError, UserError
from act_ray.runs.failing_storage import told

FILE = "auto.json"
SIGN_S = 2.0  # between two signs of life

Found = dict[str, Any]  # what a step found out


@dataclass(frozen=True)
class Saved:
    """The file."""

    data: str
    hours: float
    sessions: list[tuple[float, float]]
    done: dict[str, Found]
    at: dict[str, float]
    notes: list[str]
    asked: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The file, and this process's part of it."""

    def __init__(self, folder: Path, data: str, hours: float, asked: dict[str, Any] | None = None) -> None:
        """Read the file in `folder`, or begin one. Raises UserError for one of other data, other hours or options.

        asked: the options that the user gave, by name.
        """
        self.path, self.lock = folder / FILE, threading.RLock()
        self.data, self.hours, self.asked = data, hours, asked or {}
        self.sessions: list[list[float]] = []
        self.began: float | None = None  # this process's session, by time.monotonic()
        self.done: dict[str, Found] = {}  # step -> what it found out
        self.at: dict[str, float] = {}  # step -> seconds at work when it was done
        self.notes: list[str] = []  # what was left out or shortened
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            saved = jsonfile.read(self.path, Saved)
        except (OSError, ValueError):
            raise UserError(f"{self.path}: cannot be read; choose another --out") from None
        data, hours = saved.data, saved.hours
        self.sessions = [[began, seen] for began, seen in saved.sessions]
        self.done, self.at, self.notes = saved.done, saved.at, saved.notes
        if data != self.data:
            raise UserError(f"--out {self.path.parent}: was begun with {data}; choose another --out for {self.data}")
        if hours != self.hours:
            raise UserError(f"--hours {self.hours}: {self.path.parent} was begun with --hours {hours}; give that "
                            "to go on, or another --out to begin anew")  # fmt: skip
        for name in sorted(saved.asked.keys() | self.asked.keys()):
            if saved.asked.get(name) != self.asked.get(name):
                raise UserError(f"--{name}: {self.path.parent} was begun with another one; give the same options to go "
                                "on, or another --out to begin anew")  # fmt: skip

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the time of the block."""
        over = threading.Event()
        self.began, now = time.monotonic(), time.time()
        self.sessions.append([now, now])
        self.write()

        def live() -> None:
            while not over.wait(SIGN_S):
                with contextlib.suppress(OSError, StorageError):  # a later one may work
                    self.write()

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.write()

    def write(self) -> None:
        """The file, with a sign of life. Raises StorageError where the disk is full, or fails."""
        with self.lock, told(FILE, self.path.parent, then="the same command goes on"):
            if self.sessions:
                self.sessions[-1][1] = self.sessions[-1][0] + self._session
            jsonfile.write(self.path, {"data": self.data, "hours": self.hours, "sessions": self.sessions,
                                       "done": self.done, "at": self.at, "notes": self.notes,
                                       "asked": self.asked})  # fmt: skip

    # ------------------------------------------------------------------------------------------ steps and time

    def step(self, name: str, do: Callable[[], Found]) -> Found:
        """What a step found out; it is done only where that is not known yet."""
        if name not in self.done:
            found = do()
            with self.lock:
                self.done[name], self.at[name] = found, round(self.used, 1)
            self.write()
        return self.done[name]

    def took(self, name: str) -> float:
        """Seconds at work from the end of the step before it, in all sessions."""
        before = [at for at in self.at.values() if at < self.at[name]]
        return self.at[name] - max(before, default=0.0)

    def note(self, line: str) -> None:
        """Something that the report has to say; each line once."""
        with self.lock:
            if line not in self.notes:
                self.notes.append(line)

    @property
    def whole(self) -> float:
        """Seconds that were asked for."""
        return self.hours * 3600

    @property
    def used(self) -> float:
        """Seconds at work, in all sessions."""
        before = sum(seen - began for began, seen in self.sessions[:-1])
        return before + (self._session if self.sessions else 0.0)

    @property
    def _session(self) -> float:
        """Seconds of the last session; of another process's what it wrote. By a clock that nobody sets."""
        began, seen = self.sessions[-1]
        return seen - began if self.began is None else time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds; below 0 when the time is over."""
        return self.whole - self.used
