"""What a slow object store costs a step: `python benchmarks/uploads.py`.

A small network on the digits is trained three times in turn, a checkpoint every 40 steps: to a folder, to a store whose
every call takes `--seconds`, and to the same store with each push and each look for a stop waited for, as up to 0.1.0.
The store is a folder behind that delay. What is measured is the time from the beginning of a step to that of the next:
of ordinary steps the median, and of the rounds that save a checkpoint the mean; the run's end waits for its last push.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import click
from saving import begins, waited_for

from act_ray import settings
from act_ray.config import Config
from act_ray.device import prepare_process
from act_ray.runs.folder import STOP, RunFolder
from act_ray.runs.storage import ObjectStore
from act_ray.runs.writer import Writer

EVERY = 40
SETTINGS: dict[str, Any] = {
    "train.total_steps": 200,
    "train.threads": 1,
    "eval.features": "none",
    "eval.every": 200,
    "checkpoint.every": EVERY,
}
CALLS = ("upload", "read", "exists", "write", "listing", "delete_file", "delete_folder")


def measured(cfg: Config, location: str) -> tuple[float, float, float]:
    """Seconds of an ordinary step, of a round with a checkpoint, and of the whole run."""
    started = time.perf_counter()
    # The writing is waited for, so that a push begins in the round that saves: it is the pushes that are compared.
    with mock.patch.object(Writer, "write", waited_for):
        began = begins(cfg, location)
    whole = time.perf_counter() - started
    rounds = [after - before for before, after in itertools.pairwise(began)]
    saving = [seconds for number, seconds in enumerate(rounds, 1) if number % EVERY == 0]
    ordinary = [seconds for number, seconds in enumerate(rounds, 1) if number % EVERY != 0]
    return statistics.median(ordinary), statistics.mean(saving), whole


def delayed(name: str, seconds: float) -> Any:
    """A call of the store that takes so much longer."""
    original = getattr(ObjectStore, name)

    def call(*args: Any) -> Any:
        time.sleep(seconds)
        return original(*args)

    return mock.patch.object(ObjectStore, name, call)


def asking_at_once(run: RunFolder, every: float = 5.0) -> bool:
    """The look for a stop as it was."""
    if run.remote is not None and time.monotonic() - run._last_look > every:
        run._last_look = time.monotonic()
        return run.remote.exists(STOP)
    return False


def pushing_at_once(run: RunFolder, new: Path | None = None, later: Any = RunFolder.push_later) -> None:
    """A push as it was."""
    later(run, new)
    run.pushed()


@click.command()
@click.option("--seconds", default=0.5, show_default=True, help="That each call of the store takes.")
@click.option("--rounds", default=1, show_default=True)
def main(seconds: float, rounds: int) -> None:
    """Print the times of each way, and how many ordinary steps of the same way a round with a checkpoint takes."""
    cfg = settings.load("digits", SETTINGS)
    prepare_process(cfg, 1)
    found: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as work, mock.patch.dict("os.environ", ACT_RAY_CACHE=f"{work}/cache"):
        for number in range(rounds):
            place = Path(work) / str(number)
            found.setdefault("a folder", []).append(measured(cfg, str(place / "folder")))
            patches = [delayed(name, seconds) for name in CALLS]
            for patch in patches:
                patch.start()
            found.setdefault("in the background", []).append(measured(cfg, (place / "background").as_uri()))
            with (
                mock.patch.object(RunFolder, "push_later", pushing_at_once),
                mock.patch.object(RunFolder, "stop_requested", asking_at_once),
            ):
                found.setdefault("waited for", []).append(measured(cfg, (place / "waited").as_uri()))
            for patch in patches:
                patch.stop()
    for way, times in found.items():
        step, saving, whole = (statistics.mean(column) for column in zip(*times, strict=True))
        click.echo(
            f"{way:18} step {1e3 * step:.1f} ms   checkpoint {1e3 * saving:.0f} ms ({saving / step:.2f} steps)   "
            f"whole run {whole:.1f} s"
        )


if __name__ == "__main__":
    main()
