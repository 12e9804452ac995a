"""Watches a run's folder from the process that started it: lines for its events, and a bar or now and then a line."""

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from act_ray.outcomes import RunOutcome
from act_ray.runs.folder import RunFolder
from act_ray.runs.progress import Progress, format_seconds, read_progress
from act_ray.runs.rows import Tail, file_size, parse_rows
from act_ray.runs.story import tell
from act_ray.runs.tensorboard import EventFiles

STARTS = ("started", "resumed")  # a process began with the steps
QUIET_S = 30.0  # without a terminal's bar, and with no score or event, a line after this long


class Follow:
    """`with Follow(location, total_steps):` prints what the run there writes, until the block ends.

    The run may be in this process or in a worker elsewhere: the folder is all that they share. A run on an object store
    pushes its files at checkpoints, so that is how fresh its lines are.
    """

    def __init__(self, location: str, total_steps: int, tensorboard: bool = False) -> None:
        self.run, self.total = RunFolder(location, scratch="views"), total_steps
        self.path, self.every = self.run.path, 0.5 if self.run.remote is None else 15.0
        self.run.fetch_root()
        if self.run.remote is not None:
            self.run.remote = self.run.remote.asked_once()
        self.events, self.scores = (
            Tail(self.path / name, file_size(self.path / name)) for name in ("events.jsonl", "scores.jsonl")
        )
        self.rate = ""
        self.event_files = EventFiles(self.run) if tensorboard else None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.bar: Any = None
        self.begun, self.before = False, read_progress(self.path)  # what stands there before is of an earlier process
        self.step, self.spoke, self.started = 0, time.monotonic(), time.monotonic()

    def __enter__(self) -> Self:
        self.bar = tqdm(total=self.total, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.done.set()
        self.thread.join()
        self._look()
        self._mirror(over=True)
        self.bar.close()

    def _watch(self) -> None:
        while not self.done.wait(self.every):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # a store that is away is looked at again, and the run tells of it
            self.run.fetch_root()
        self._mirror()
        events = self.events.rows()  # read before the scores: those of an ended run are then all there
        self.begun = self.begun or any(row["event"] in STARTS for row in events)
        if not self.begun:  # another process may train there, which ours waits for
            events = [row for row in events if row["event"] == "note"]
        progress = read_progress(self.path)
        if progress == self.before or not self.begun:
            progress = None
        if progress is not None:
            self._show(progress)
        ended = [row for row in events if row["event"] in list(RunOutcome)]
        for row in events:
            if row not in ended:
                self._print(tell(row))
        for row in self.scores.rows() if self.begun else ():
            rate = f", {self.rate}" if self.rate else ""
            self._print(f"step {row['step']:,}/{self.total:,}: {describe_scores(row)}{rate}")
        for row in ended:
            self._print(tell(row))
        if self.bar.disable and time.monotonic() - self.spoke > QUIET_S:
            if progress is not None and progress.step > self.step:
                self._print(f"step {progress.step:,}/{self.total:,}: {self.rate}")
                self.step = progress.step
            elif progress is None:
                self._print(f"no step yet after {time.monotonic() - self.started:.0f} s")

    def _mirror(self, over: bool = False) -> None:
        """What TensorBoard reads, where it is asked for; the training does not end for it."""
        if self.event_files is None:
            return
        try:
            self.event_files.close() if over else self.event_files.refresh()
        except (OSError, ValueError) as error:
            self.event_files = None
            self._print(f"--tensorboard: no more event files: {error}")

    def _show(self, progress: Progress) -> None:
        eta = format_seconds(progress.seconds_left)
        self.rate = f"{progress.steps_per_second:.1f} steps/s, {progress.images_per_second:.0f} images/s, ETA {eta}"
        self.bar.n = progress.step
        self.bar.set_postfix_str(f"{progress.images_per_second:.0f} images/s", refresh=True)

    def _print(self, line: str) -> None:
        self.spoke = time.monotonic()
        with self.bar.external_write_mode(file=sys.stdout):
            print(line, flush=True)


def count_starts(location: str) -> int:
    """How often a process has begun with the steps of the run there, as its events say."""
    name = "events.jsonl"
    rows, _ = parse_rows((RunFolder(location, scratch="views").read(name) or "").encode(), name)
    return sum(row["event"] in STARTS for row in rows)


def describe_scores(row: dict[str, Any]) -> str:
    """The score, those of the other weights beside it, and the diversity."""
    others = [
        f"{name.removeprefix('score_')} {float(value):.4g}"
        for name, value in row.items()
        if name.startswith("score_") and name != f"score_{row['weights']}"
    ]
    beside = f" ({', '.join(others)})" if others else ""
    score = "" if row["score"] is None else f" {float(row['score']):.4g}"
    return f"{row['metric']}{score}{beside}, diversity {float(row['diversity']):.2f}"
