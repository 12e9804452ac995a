"""What a training step costs, variants side by side in one run: `python benchmarks/step.py --preset digits`.

Rounds go through all variants in turn, so that a machine's mood is shared; the figures to trust are the ratios of
medians over the first variant. Random images stand in for data; LPIPS is replaced by pseudo-Huber.
"""

import statistics
import time

import click
import numpy as np
import torch

from act_ray import settings
from act_ray.core.noise import Noise
from act_ray.core.step import train_step
from act_ray.data.shards import ImageData
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

VARIANTS: dict[str, dict[str, object]] = {
    "fp32, RAdam": {},
    "without D (w = 0)": {"loss.w": 0.0, "loss.w_mid": 0.0},
    "augmented": {"augment.enabled": True},
    "channels_last": {"train.channels_last": True},
    "fused Adam": {"optim.name": "adam"},
    "bf16": {"train.precision": "bf16"},
    "bf16, channels_last, fused Adam": {
        "train.precision": "bf16", "train.channels_last": True, "optim.name": "adam",
    },
}  # fmt: skip


@click.command()
@click.option("--preset", default="digits", show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--size", default=8, show_default=True, help="Side of the images.")
@click.option("--channels", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=16, show_default=True, help="Steps per round; a multiple of I_gp holds its penalty.")
@click.option("--threads", default=1, show_default=True)
def main(preset: str, batch: int, size: int, channels: int, rounds: int, steps: int, threads: int) -> None:
    """Time train_step for each variant."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = np.random.default_rng(0).integers(0, 256, (batch, channels, size, size), np.uint8)
    x = torch.from_numpy(images).to(device).float() / 127.5 - 1
    data = ImageData(images, None, 0, "", "random")
    base = {"train.global_batch": batch, "loss.distance": "pseudo_huber", "model.num_classes": None}
    configs = {name: settings.load(preset, {**base, **change}) for name, change in VARIANTS.items()}
    states = {name: build_state(cfg, data, Ranks(device), print) for name, cfg in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds + 1):  # the first warms up
        for name, state in states.items():
            started = time.perf_counter()
            for _ in range(steps):
                train_step(state, x, None, Noise(0, state.step, device), configs[name].step)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - started) / steps)
    first = statistics.median(times[next(iter(times))][1:])
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {threads} thread(s)"
    print(f"{preset}, batch {batch}, {channels}x{size}x{size}, {where}, torch {torch.__version__}")
    for name, seconds in times.items():
        middle = statistics.median(seconds[1:])
        print(f"  {name:34s} {1000 * middle:9.1f} ms/step   {first / middle:5.2f}x")


if __name__ == "__main__":
    main()
