"""What a training step costs, variants side by side in one run: `python benchmarks/step.py --preset digits`.

Rounds go through all variants in turn, so that a machine's mood is shared; the figures to trust are the ratios of
medians over the first variant. Each round is one step with the gradient penalty and some without; "all" is what they
average to over I_gp steps. "CPU" is the same ratio of the process's CPU time, which other programs disturb less.
Random images stand in for data; LPIPS is replaced by pseudo-Huber.
"""

import time
from collections.abc import Callable
from statistics import median

import click
import numpy as np
import torch
from torch.optim import Optimizer, RAdam

from act_ray import settings
from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.step import TrainState, train_step
from act_ray.data.shards import ImageData
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

VARIANTS: dict[str, dict[str, object]] = {
    "fp32, RAdam": {},
    "torch's RAdam": {},
    "fused Adam": {"optim.name": "adam"},
    "without D (w = 0)": {"loss.w": 0.0, "loss.w_mid": 0.0},
    "augmented": {"augment.enabled": True},
    "channels_last": {"train.channels_last": True},
    "micro_batch, half the batch": {"train.micro_batch": 0},
    "bf16": {"train.precision": "bf16"},
    "bf16, channels_last": {"train.precision": "bf16", "train.channels_last": True},
    "compiled": {"train.compile": True},
}
LEFT_OUT = ("compiled",)  # unless it is asked for: compiling takes minutes
CLOCKS: dict[str, Callable[[], float]] = {"time": time.perf_counter, "CPU": time.process_time}


@click.command()
@click.option("--preset", default="digits", show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--size", default=8, show_default=True, help="Side of the images.")
@click.option("--channels", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=8, show_default=True, help="Steps without the penalty in each round.")
@click.option("--threads", default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(VARIANTS)), help="These variants; several times.")
def main(
    preset: str, batch: int, size: int, channels: int, rounds: int, steps: int, threads: int, only: tuple[str, ...]
) -> None:
    """Time train_step for each variant."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = np.random.default_rng(0).integers(0, 256, (batch, channels, size, size), np.uint8)
    x = torch.from_numpy(images).to(device).float() / 127.5 - 1
    data = ImageData(images, None, 0, "", "random")
    base = {"train.global_batch": batch, "loss.distance": "pseudo_huber", "model.num_classes": None}
    names = only or tuple(name for name in VARIANTS if name not in LEFT_OUT)
    configs, states = dict[str, Config](), dict[str, TrainState]()
    for name in names:
        change = {
            key: value or batch // 2 if key == "train.micro_batch" else value for key, value in VARIANTS[name].items()
        }
        configs[name] = settings.load(preset, {**base, **change})
        states[name] = build_state(configs[name], data, Ranks(device), print)
        if name == "torch's RAdam":
            plain(states[name])
    took = {name: {clock: ([], []) for clock in CLOCKS} for name in names}  # type: ignore[var-annotated]
    for _ in range(rounds + 1):  # the first warms up
        for name in names:
            for kind, count in ((0, 1), (1, steps)):
                for clock, seconds in measure(states[name], configs[name], x, kind == 0, count).items():
                    took[name][clock][kind].append(seconds)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {threads} thread(s)"
    print(f"{preset}, batch {batch}, {channels}x{size}x{size}, {where}, torch {torch.__version__}")
    print(f"  {'ms/step; ratios over the first':34s} {'plain':>9s} {'penalty':>9s} {'all':>9s}   ratio   CPU")
    first = took[names[0]], configs[names[0]].loss.gp_interval
    for name in names:
        interval = configs[name].loss.gp_interval
        ratio = [whole(first[0][clock], first[1]) / whole(took[name][clock], interval) for clock in CLOCKS]
        penalty, without = (1000 * median(seconds[1:]) for seconds in took[name]["time"])
        every = 1000 * whole(took[name]["time"], interval)
        print(f"  {name:34s} {without:9.1f} {penalty:9.1f} {every:9.1f}   {ratio[0]:4.2f}x {ratio[1]:4.2f}x")


def measure(state: TrainState, cfg: Config, x: torch.Tensor, penalised: bool, count: int) -> dict[str, float]:
    """Seconds of a step with the penalty, or without, by each clock; the mean of `count`."""
    interval = cfg.loss.gp_interval
    begun = {name: clock() for name, clock in CLOCKS.items()}
    for i in range(count):
        state.step = interval if penalised else interval + 1 + i % (interval - 1)
        train_step(state, x, None, Noise(0, state.step, x.device), cfg.step)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return {name: (clock() - begun[name]) / count for name, clock in CLOCKS.items()}


def whole(seconds: tuple[list[float], list[float]], interval: int) -> float:
    """Of a step, over I_gp steps of which one has the penalty; seconds: of rounds with it, and without."""
    penalty, without = (median(rounds[1:]) for rounds in seconds)
    return (penalty + (interval - 1) * without) / interval


def plain(state: TrainState) -> None:
    """Exchange the optimisers for torch's own."""

    def exchange(old: Optimizer) -> RAdam:
        group = old.param_groups[0]
        return RAdam(group["params"], group["lr"], group["betas"], foreach=True)

    assert state.optimizer_d is not None
    state.optimizer_g, state.optimizer_d = exchange(state.optimizer_g), exchange(state.optimizer_d)


if __name__ == "__main__":
    main()
