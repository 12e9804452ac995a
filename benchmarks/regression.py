"""This tree's training step against the last release's, in one run: `python benchmarks/regression.py` (`make speed`).

Both run in processes of their own, which take turns, a round of steps each, so that a machine's mood is shared. What is
compared is the median of the processes' CPU times. A loss of more than --most in each of three tries ends with exit
code 1; two pieces of code that are the same differ by a few per cent, and by ten on a machine with much other work.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

import click

RELEASE = "1cc3b0faa34c486d4ff8e3d122705fb7c0c20420"  # the last commit of 0.1.0
TRIES = 3
WORKER = """
import sys, time
import numpy as np
import torch
from act_ray import settings
from act_ray.core.noise import Noise
from act_ray.core.step import train_step
from act_ray.data.shards import ImageData
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

batch, steps, device = int(sys.argv[1]), int(sys.argv[2]), torch.device("cpu")
torch.set_num_threads(1)
images = np.random.default_rng(0).integers(0, 256, (batch, 1, 8, 8), np.uint8)
cfg = settings.load(
    "digits", {"train.global_batch": batch, "loss.distance": "pseudo_huber", "model.num_classes": None}
)
state = build_state(cfg, ImageData(images, None, 0, "", "random"), Ranks(device), lambda line: None)
x = torch.from_numpy(images).float() / 127.5 - 1
for _ in sys.stdin:
    started = time.process_time()
    for _ in range(steps):
        train_step(state, x, None, Noise(0, state.step, device), cfg.step)
    print((time.process_time() - started) / steps, flush=True)
"""


def extract(revision: str, into: Path) -> None:
    """The tree of a commit."""
    archive = subprocess.run(["git", "archive", revision], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
        tree.extractall(into, filter="data")


class Worker:
    """A process that makes steps with the code of a tree, when it is told to."""

    def __init__(self, tree: Path, batch: int, steps: int) -> None:
        command = [sys.executable, "-W", "ignore", "-c", WORKER, str(batch), str(steps)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        self.process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def round(self) -> float:
        """Seconds of CPU time of a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("go", file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@click.command()
@click.option("--base", default=RELEASE, help="The commit to compare with; by default that of the last release.")
@click.option("--batch", default=32, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=16, show_default=True, help="Of a round; a multiple of I_gp holds its penalties.")
@click.option("--most", default=0.1, show_default=True, help="The loss that is borne.")
def main(base: str, batch: int, rounds: int, steps: int, most: float) -> None:
    """Print the ratio of each try."""
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as work:
        extract(base, Path(work))
        workers = [Worker(tree, batch, steps) for tree in (Path(work), here)]
        try:
            for worker in workers:
                worker.round()  # warms up
            for attempt in range(1, TRIES + 1):
                times = [[worker.round() for worker in workers] for _ in range(rounds)]
                before, now = (median(column) for column in zip(*times, strict=True))
                click.echo(
                    f"try {attempt}: a step took {1e3 * before:.1f} ms of CPU time at {base[:7]}, "
                    f"{1e3 * now:.1f} ms now: {before / now:.2f}x"
                )
                if before / now >= 1 - most:
                    return
        finally:
            for worker in workers:
                worker.close()
    click.echo(f"slower by more than {most:.0%} in {TRIES} tries")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
