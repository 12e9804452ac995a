"""What a checkpoint costs the steps around it: `python benchmarks/saving.py`.

One network on the digits is trained in turn without checkpoints, with each of them waited for, and with checkpoints in
the background. What is measured is the time from the beginning of a step to that of the next: of rounds that save, and,
since the writing goes on beside them, of the whole run between its first step and its last.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch

from act_ray import settings
from act_ray.config import Config
from act_ray.device import prepare_process
from act_ray.files import in_units
from act_ray.runs.checkpoint import Snapshot
from act_ray.runs.folder import RunFolder
from act_ray.runs.writer import Writer
from act_ray.train import loop
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks

NEVER = 10**6


def begins(cfg: Config, location: str) -> list[float]:
    """When each step began, in seconds."""
    began = list[float]()
    original = loop.train_step

    def step(*args: Any) -> Any:
        began.append(time.perf_counter())
        return original(*args)

    with mock.patch.object(loop, "train_step", step):
        assert [*train(cfg, RunFolder(location), Ranks())]
    return began


def waited_for(writer: Writer, snapshot: Snapshot, then: Any, later: Any = Writer.write) -> None:
    """A save as it was."""
    later(writer, snapshot, then)
    writer.settle()


@click.command()
@click.option("--channels", default=128, show_default=True, help="Of the first of two levels; the second has twice.")
@click.option("--every", default=10, show_default=True, help="Steps between two checkpoints.")
@click.option("--steps", default=61, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(channels: int, every: int, steps: int, rounds: int, threads: int) -> None:
    """Print, for each way, a step that saves and the run's mean step, over ordinary steps without checkpoints."""
    base = {
        "model.block_out_channels": [channels, 2 * channels], "model.down": "DD", "model.up": "UU",
        "train.total_steps": steps, "train.threads": threads, "eval.features": "none", "eval.every": NEVER,
    }  # fmt: skip
    plain = settings.load("digits", {**base, "checkpoint.every": NEVER})
    saving = settings.load("digits", {**base, "checkpoint.every": every})
    prepare_process(plain, 1)
    sizes, take = list[int](), Snapshot.take

    def weighed(*args: Any) -> Snapshot:
        snapshot = take(*args)
        sizes.append(snapshot.nbytes)
        return snapshot

    times: dict[str, list[list[float]]] = {"no checkpoints": [], "waited for": [], "in the background": []}
    with tempfile.TemporaryDirectory() as work, mock.patch.object(Snapshot, "take", weighed):
        for number in range(rounds):
            place = Path(work) / str(number)
            times["no checkpoints"].append(begins(plain, str(place / "plain")))
            with mock.patch.object(Writer, "write", waited_for):
                times["waited for"].append(begins(saving, str(place / "waited")))
            times["in the background"].append(begins(saving, str(place / "background")))
    gaps = {
        name: [[after - before for before, after in itertools.pairwise(began)] for began in runs]
        for name, runs in times.items()
    }
    ordinary = statistics.median(gap for run in gaps["no checkpoints"] for gap in run)
    setup = f"every {every} steps of {1e3 * ordinary:.0f} ms, {threads} threads, torch {torch.__version__}"
    click.echo(f"a checkpoint of {in_units(sizes[0])} {setup}")
    for name, runs in gaps.items():
        saved = statistics.median(gap for run in runs for number, gap in enumerate(run, 1) if number % every == 0)
        mean = statistics.median(statistics.mean(run[1:]) for run in runs)
        click.echo(f"  {name:18} a step that saves {saved / ordinary:.2f}x   the mean step {mean / ordinary:.3f}x")


if __name__ == "__main__":
    main()
