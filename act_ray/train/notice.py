"""A machine that is about to be taken away: the run saves at once, and again just before, so that no step is lost."""

import shutil
import time
from collections.abc import Callable

from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import Snapshot
from act_ray.runs.failing_storage import told
from act_ray.runs.pulse import Pulse
from act_ray.train.run import TrainingRun

Ask = Callable[[], float | None]  # the time of day at which the machine goes, inf if that is not said; None: it stays
MARGIN_S = 3.0  # the last checkpoint is begun so long before, and as long again as the one before took twice
GRACE_S = 60.0  # after its time a machine that is still there was given back, and the run goes on


def nobody() -> None:
    """Nobody gives notice to a process of its own; a signal does (runs/interrupt.py)."""


def rehearse(run: TrainingRun) -> None:
    """Write a checkpoint and drop it again: does one fit into checkpoint.notice? Raises UserError if it does not."""
    if (notice := run.cfg.checkpoint.notice) is not None:
        run.ranks.on_first(lambda: _rehearse(run, notice))


def _rehearse(run: TrainingRun, notice: float) -> None:
    place, started = run.folder.path / ".rehearsal", time.monotonic()
    shutil.rmtree(place, ignore_errors=True)  # left by a process that was killed
    try:
        with told("a checkpoint, to see how long it takes,", run.folder.path, lambda: checkpoint.size(run.state)):
            written = checkpoint.save(place, Snapshot.take(run.state, {}))
            run.folder.send_and_drop(written)
        took = time.monotonic() - started
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if (needed := MARGIN_S + took) > notice:
        size = in_units(checkpoint.size(run.state))
        raise UserError(
            f"checkpoint.notice = {notice:g}: a checkpoint of {size} takes {took:.1f} s in {run.folder.location}, and "
            f"a step must end before it; needed: {needed:.0f} s, a smaller network or a faster storage"
        )


class Notice:
    """What `rounds` does about it. Every worker asks at the same steps, and is told the same."""

    def __init__(self, ask: Ask, run: TrainingRun, pulse: Pulse) -> None:
        self.ask, self.run, self.pulse = ask, run, pulse
        self.ends: float | None = None  # by time.monotonic(): the time of day may be set
        self.saving = 0.0  # seconds that the last save took

    def look(self) -> None:
        """After a flush: was notice given?"""
        if self.ends is None and (ends := self.ask()) is not None and (left := ends - time.time()) > -GRACE_S:
            self.ends = time.monotonic() + left
            when = f"in {left:.0f} s" if left < float("inf") else "soon"
            self.run.note(f"this machine is to be taken away {when}: saved at step {self.run.state.step:,}")
            self._save()

    def heed(self) -> None:
        """After a step: save and wait, where the next one may be lost."""
        if self.ends is None or self.ends == float("inf"):
            return
        due = self.run.ranks.from_first(time.monotonic() + MARGIN_S + 2 * self.saving > self.ends)
        if not due:
            return
        self.run.flush()
        self._save()
        self.pulse.pause()
        while self.run.ranks.from_first(time.monotonic() < self.ends + GRACE_S):
            time.sleep(0.5)
        self.ends = None

    def _save(self) -> None:
        started = time.monotonic()
        if self.run.state.step != self.run.saved_at:
            self.run.save()
        self.run.pushed()
        self.saving = self.run.ranks.from_first(time.monotonic() - started)
