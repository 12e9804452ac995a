"""What a large search costs its driver: `python benchmarks/many_trials.py --trials 1000`.

The real tuner, with its scheduler, its log and its lines, over trials that train nothing: each gives ten reports on an
exponential curve of its own at once, and one in ten collapses. Prints how long the scheduler took to decide (Tune waits
for it), how much memory the driver had at most, the size of the log, and how long reading it takes to go on.
"""

import contextlib
import io
import json
import math
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import click
import ray

from act_ray.ray_cluster import connected
from act_ray.tune import ray_search
from act_ray.tune.experiment import Experiment
from act_ray.tune.ray_schedulers import TuneScheduler
from act_ray.tune.ray_trial import Trial
from act_ray.tune.space_files import parse_space

REPORTS, STEPS = 10, 1000
TIMED = ("on_trial_result", "on_trial_complete", "choose_trial_to_run", "wants_new")


def curve(told: dict[str, Any], done: int) -> Iterator[dict[str, Any]]:
    """The reports of a trial that has given `done` of them."""
    draw = random.Random(told["index"])
    floor, rate, dies = draw.uniform(10, 50), draw.uniform(1, 6), draw.random() < 0.1
    best = math.inf
    for number in range(done + 1, REPORTS + 1):
        share = number / REPORTS
        score = floor + 300 * math.exp(-rate * share) * draw.uniform(0.95, 1.05)
        best = min(best, score)
        prune = None
        if dies and share > 0.5:
            about = {"value": 9.0, "threshold": 3.0, "message": "a stub's", "because": None}
            prune = {"signature": "gradient spike", "step": number, "confirmed": number, **about}
        over = "pruned" if prune else "completed" if number == REPORTS else None
        yield {
            "step": STEPS * number // REPORTS, "images": number, "score": score, "best_score": best,
            "best_step": number, "diversity": 0.5, "seconds": float(number), "outcome": over, "prune": prune,
            "rescues": 0, "given_up": 0,
        }  # fmt: skip
        if over:
            return


class Stub(Trial):
    """A trial without training; how far one that waits has come is kept in a file, as a run's checkpoint is."""

    def setup(self, config_: dict[str, Any]) -> None:
        self.told = config_["trial"]
        self.place = Path(self.told["location"]) / "done"
        self.done = int(self.place.read_text()) if self.place.exists() else 0
        self.reports = curve(self.told, self.done)

    def step(self) -> dict[str, Any]:
        report = next(self.reports)
        self.done += 1
        return {**report, "done": report["outcome"] is not None}

    def cleanup(self) -> None:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.place.write_text(str(self.done))


@contextlib.contextmanager
def timed(into: dict[str, list[float]]) -> Iterator[None]:
    """Note how long each call of the scheduler takes."""
    with contextlib.ExitStack() as patches:
        for name in TIMED:
            original = getattr(TuneScheduler, name)

            def call(*args: Any, original: Any = original, name: str = name) -> Any:
                started = time.perf_counter()
                try:
                    return original(*args)
                finally:
                    into.setdefault(name, []).append(time.perf_counter() - started)

            patches.enter_context(mock.patch.object(TuneScheduler, name, call))
        yield


@click.command()
@click.option("--trials", default=1000, show_default=True)
@click.option("--scheduler", default="freeze-thaw", show_default=True)
def main(trials: int, scheduler: str) -> None:
    """Run the search, and print what it took."""
    raw = {
        "preset": "digits", "set": {"train.total_steps": STEPS, "eval.every": STEPS // REPORTS}, "trials": trials,
        "scheduler": scheduler, "parameters": {"loss.w": {"uniform": [0.1, 0.9]}},
    }  # fmt: skip
    times, said = dict[str, list[float]](), io.StringIO()
    with tempfile.TemporaryDirectory() as work, connected():
        search = Experiment.create(
            f"{work}/search",
            parse_space(raw, "benchmark"),
            {"workers_per_trial": 0, "concurrent": None, "max_failures": 0},
        )
        started = time.perf_counter()
        with timed(times), mock.patch.object(ray_search, "Trial", Stub), contextlib.redirect_stdout(said):
            ray_search.search(search)
        seconds = time.perf_counter() - started
        log = search.dir.path / "events.jsonl"
        size, rows = log.stat().st_size, [json.loads(line) for line in log.read_text().splitlines()]
        started = time.perf_counter()
        Experiment.read(search.location)
        reading = time.perf_counter() - started
        ended = sum(trial.outcome is not None for trial in search.trials.values())
    ray.shutdown()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    click.echo(
        f"{trials} trials, {scheduler}: {seconds:.0f} s, {ended} ended, {len(said.getvalue().splitlines())} lines"
    )
    click.echo(
        f"  driver: {peak:.2f} GB at most; log: {len(rows):,} rows, {size / 1e6:.1f} MB, read in {reading:.2f} s"
    )
    for name, taken in times.items():
        taken.sort()
        last = f"median {1e3 * median(taken):.2f} ms, 99% {1e3 * taken[int(0.99 * (len(taken) - 1))]:.2f} ms"
        click.echo(f"  {name}: {len(taken):,} calls, {last}, at most {1e3 * taken[-1]:.1f} ms")


if __name__ == "__main__":
    main()
