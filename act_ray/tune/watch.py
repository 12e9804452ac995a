"""The progress line of a search: read from the trials' folders while Tune runs."""

import json
import sys
import threading
import time
from types import TracebackType
from typing import Self

from act_ray.tune.experiment import Experiment, TrialRecord


class Watch:
    """Shows a progress line until the block ends: in place on a terminal, every 30 s elsewhere."""

    def __init__(self, experiment: Experiment, total: int) -> None:
        self.experiment, self.total = experiment, total
        self.live = sys.stdout.isatty()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.done.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.done.wait(1 if self.live else 30):
            line = self.line()
            sys.stdout.write(f"\r\x1b[K{line}" if self.live else f"{line}\n")
            sys.stdout.flush()

    def _where(self, trial: TrialRecord) -> tuple[int, float]:
        """(step, steps per second) of a running trial; on an object store as of its last report."""
        try:
            progress = json.loads((self.experiment.local_trial(trial.plan) / "progress.json").read_text())
            return progress["step"], progress["steps_per_second"]
        except (OSError, ValueError):
            last = trial.last
            return (last["step"], last["step"] / max(last["seconds"], 1e-9)) if last else (0, 0.0)

    def line(self) -> str:
        """Trials ended and running, steps per second over all, best score so far, time left for the running ones."""
        trials = list(self.experiment.trials.values())
        ended = [trial for trial in trials if trial.ended]
        rate, left, running = 0.0, 0.0, 0
        for trial in trials:
            if trial.ended:
                continue
            running += 1
            step, speed = self._where(trial)
            rate += speed
            left += trial.total - step
        budget = self.experiment.space.config({}).train.total_steps
        left += max(0, self.total - len(trials)) * budget
        eta = f", at most {int(left / rate) // 60}:{int(left / rate) % 60:02d} left" if rate else ""
        best = self.experiment.best
        score = f", best {best.reports[-1]['best_score']:.4g} ({best.plan.name})" if best else ""
        return f"{len(ended)}/{self.total} trials ended, {running} running, {rate:.1f} steps/s{score}{eta}"
