"""Ray Train against plain torchrun, two workers each: `python benchmarks/ddp.py`.

The same loop on the digits, in turn under both, each in its own processes with gloo. What is compared is the time of
training as the run itself counts it, without start-up, scores and checkpoints.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import torch.distributed as dist

from act_ray import settings
from act_ray.device import prepare_process
from act_ray.ray_cluster import connected
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from act_ray.train.ray_workers import fit

WORKERS = 2


def settings_of(steps: int) -> Any:
    never = 10**6
    return settings.load(
        "digits",
        {"train.total_steps": steps, "train.threads": 1, "eval.features": "none", "eval.every": never,
         "checkpoint.every": never},
    )  # fmt: skip


def seconds_of(folder: Path) -> float:
    """Of training, per step."""
    result = json.loads((folder / "result.json").read_text())
    return float(result["seconds"] / result["step"])


@click.command()
@click.option("--steps", default=200, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(steps: int, rounds: int) -> None:
    """Print the ratio."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a worker of torchrun
        dist.init_process_group("gloo")
        cfg = settings_of(steps)
        prepare_process(cfg, WORKERS)
        assert [*train(cfg, RunFolder(os.environ["ACT_RAY_BENCHMARK"]), Ranks())]
        dist.destroy_process_group()
        return
    times: dict[str, list[float]] = {"Ray Train": [], "torchrun": []}
    with tempfile.TemporaryDirectory() as work:
        for number in range(rounds):
            place = Path(work) / str(number)
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORKERS)]
            subprocess.run(
                [*command, __file__, "--steps", str(steps)], check=True, capture_output=True,
                env={**os.environ, "ACT_RAY_BENCHMARK": str(place / "torchrun"), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            times["torchrun"].append(seconds_of(place / "torchrun"))
            with connected():
                fit(settings_of(steps), str(place / "ray"), WORKERS)
            times["Ray Train"].append(seconds_of(place / "ray"))
    ray, plain = (median(times[name]) for name in ("Ray Train", "torchrun"))
    click.echo(f"digits, {WORKERS} workers of one thread, {steps} steps, torch {torch.__version__}")
    for name, taken in times.items():
        click.echo(f"  {name:10} {', '.join(f'{1e3 * one:.1f}' for one in taken)} ms a step")
    click.echo(f"  Ray Train takes {ray / plain:.3f} times as long (medians)")


if __name__ == "__main__":
    main()
