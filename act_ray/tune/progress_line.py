"""What a search prints while it runs: a line per event, and below them where all trials are."""

import shutil
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from act_ray.runs.progress import format_seconds, read_progress
from act_ray.tune.experiment import Experiment
from act_ray.tune.standing import budget_share
from act_ray.tune.trials import TrialRecord

AVERAGE_S = 900.0  # over which the speed is averaged that tells the time left: processes start, and trials are scored
EARLY_S = 30.0  # before that a trial's own speed tells more


def announce(line: str) -> None:
    """One line, above the progress line."""
    sys.stdout.write(("\r\x1b[K" if sys.stdout.isatty() else "") + line + "\n")
    sys.stdout.flush()


class ProgressLine:
    """Shows where all trials are until the block ends: in place on a terminal, every 30 s elsewhere."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.unplanned = experiment.space.example().train.total_steps  # steps of a trial that Optuna has yet to choose
        self.share = budget_share(experiment)
        self.in_place = sys.stdout.isatty()
        self.over = threading.Event()
        self.seen = deque[tuple[float, float]]()  # (time, steps done by all trials)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()
        self.thread.join()
        if self.in_place:
            sys.stdout.write("\r\x1b[K")

    def _run(self) -> None:
        while not self.over.wait(1 if self.in_place else 30):
            line = self.line()
            sys.stdout.write(f"\r\x1b[K{line[: width() - 1]}" if self.in_place else f"{line}\n")
            sys.stdout.flush()

    def line(self) -> str:
        """How much is done, trials ended and running, steps per second over all, the best score, and the time left.

        79 columns with two digits of trials.
        """
        trials, total = list(self.experiment.trials.values()), self.experiment.space.trials
        running = [trial for trial in trials if trial.outcome is None and trial.waiting is None]
        waiting = sum(trial.waiting is not None for trial in trials)
        begun = {trial.plan.index for trial in trials}
        rate, done, planned, plans = 0.0, 0.0, 0.0, self.experiment.plans
        for trial in trials:
            step, speed = self._position(trial) if trial in running else (trial.step, 0.0)
            # What is over for good takes no more than it has taken.
            rate, done, planned = rate + speed, done + step, planned + (trial.total if trial.outcome is None else step)
        planned += sum(
            plans[i].config.train.total_steps if i in plans else self.unplanned for i in range(total) if i not in begun
        )
        takes = max(self.share * planned, done, 1.0)
        rate = self._average(done) or rate
        eta = f", {format_seconds((takes - done) / rate)} left" if rate else ""
        best = self.experiment.best
        score = f", best {best.best_score:.4g} ({best.plan.index:03d})" if best else ""
        ended = len(trials) - len(running) - waiting
        waits = f", {waiting} waiting" if waiting else ""
        pace = f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"
        return f"{done / takes:.0%}: {ended}/{total} ended, {len(running)} running{waits}, {pace} steps/s{score}{eta}"

    def _average(self, done: float) -> float:
        """Steps per second over the last quarter of an hour; 0 where it is too early to say."""
        now = time.monotonic()
        self.seen.append((now, done))
        while now - self.seen[0][0] > AVERAGE_S:
            self.seen.popleft()
        before, then = self.seen[0]
        return max(done - then, 0.0) / (now - before) if now - before > EARLY_S else 0.0

    def _position(self, trial: TrialRecord) -> tuple[int, float]:
        """(step, steps per second) of a running trial; on an object store as of its last report."""
        progress = read_progress(self.experiment.local_trial(trial.plan))
        if progress is not None:
            return progress.step, progress.steps_per_second
        seconds = trial.last["seconds"] if trial.last else 0.0
        return trial.step, trial.step / seconds if seconds else 0.0


def width() -> int:
    """Columns of the terminal; 120 where there is none, as in a log."""
    return shutil.get_terminal_size((120, 24)).columns
