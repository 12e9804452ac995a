"""What a search prints while it runs: a line per event, and below them where all trials are."""

import shutil
import sys
import threading
from types import TracebackType
from typing import Self

from act_ray.runs.progress import format_seconds, read_progress
from act_ray.tune.experiment import Experiment, TrialRecord
from act_ray.tune.halving import Halving


def announce(line: str) -> None:
    """One line, above the progress line."""
    sys.stdout.write(("\r\x1b[K" if sys.stdout.isatty() else "") + line + "\n")
    sys.stdout.flush()


class ProgressLine:
    """Shows where all trials are until the block ends: in place on a terminal, every 30 s elsewhere."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.unplanned = experiment.space.example().train.total_steps  # steps of a trial that Optuna has yet to choose
        self.share = 1.0  # of all steps that the search takes
        if experiment.space.file.scheduler == "halving":
            plan = experiment.space.plan(experiment.options.get("budget"))
            self.share = min(1.0, Halving(plan).budget / plan.trials)
        self.in_place = sys.stdout.isatty()
        self.over = threading.Event()
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
        """Trials ended and running, steps per second over all, the best score and its trial, time left; 79 columns."""
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
        left = max(self.share * planned - done, 0.0)
        bound = "at most" if self.share == 1 else "about"
        eta = f", {bound} {format_seconds(left / rate)} left" if rate else ""
        best = self.experiment.best
        score = f", best {best.best_score:.4g} ({best.plan.index:03d})" if best else ""
        ended = len(trials) - len(running) - waiting
        waits = f", {waiting} waiting" if waiting else ""
        return f"{ended}/{total} ended, {len(running)} running{waits}, {rate:.1f} steps/s{score}{eta}"

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
