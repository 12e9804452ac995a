"""One table of what a training step costs on the GPU at hand: `python benchmarks/gpu.py --preset cifar10`.

Steps are replayed as CUDA graphs, unless it says "launched". For each variant: the mean time of a step, its share of
what the GPU can do (floating-point operations as torch counts them, over the vendor's dense peak for the format), the
memory that is reserved, how often the host waited for it in as many steps, and how long until all was recorded.
The images are random, so no data is needed; without LPIPS's weights the distance is pseudo-Huber, and a line says so.
On a CPU it runs as well, without peak, memory and waits.
"""

import gc
import time
import warnings
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from act_ray import settings
from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.step import TrainState, train_step
from act_ray.data.shards import ImageData
from act_ray.device import prepare_process
from act_ray.errors import UserError
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32, no TF32": {"train.precision": "fp32"},
    "TF32, launched": {"train.precision": "fp32", "train.cuda_graphs": False},
    "TF32": {"train.precision": "fp32"},
    "bf16, launched": {"train.precision": "bf16", "train.cuda_graphs": False},
    "bf16": {"train.precision": "bf16"},
    "fp16": {"train.precision": "fp16"},
    "bf16, augmented": {"train.precision": "bf16", "augment.enabled": True},
    "bf16, channels_last": {"train.precision": "bf16", "train.channels_last": True},
    "bf16, micro_batch, half the batch": {"train.precision": "bf16", "train.micro_batch": 0},
    "bf16, compiled": {"train.precision": "bf16", "train.compile": True},
}
LEFT_OUT = ("bf16, compiled",)  # unless it is asked for: compiling takes minutes
# Dense peaks in TFLOP/s, from NVIDIA's data sheets: fp32 without tensor cores, TF32, bf16.
PEAKS = {
    "A100": (19.5, 156.0, 312.0),
    "H100 PCIe": (51.0, 378.0, 756.0),
    "H100": (67.0, 495.0, 989.0),
    "H200": (67.0, 495.0, 989.0),
    "A10": (31.2, 62.5, 125.0),
    "L4": (30.3, 60.0, 121.0),
    "V100": (15.7, 15.7, 15.7),
}


def peak_of(name: str, kind: int) -> float | None:
    """FLOP/s of a GPU at most; None for one that is not in PEAKS."""
    return next((1e12 * peaks[kind] for gpu, peaks in PEAKS.items() if gpu in name), None)


def build(preset: str, change: dict[str, Any], batch: int, size: int, channels: int) -> tuple[Config, TrainState, Any]:
    """A state and a step of it, on random images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = np.random.default_rng(0).integers(0, 256, (batch, channels, size, size), np.uint8)
    x = torch.from_numpy(images).to(device).float() / 127.5 - 1
    cfg = settings.load(preset, {"train.global_batch": batch, "model.num_classes": None, **change})
    prepare_process(cfg, 1)
    data = ImageData(images, None, 0, "", "random")
    try:
        state = build_state(cfg, data, Ranks(device), click.echo)
    except UserError as error:
        click.echo(f"  (pseudo-Huber instead of {cfg.loss.distance}: {str(error).splitlines()[0][:100]})")
        cfg = settings.load(
            preset, {"train.global_batch": batch, "model.num_classes": None, **change, "loss.distance": "pseudo_huber"}
        )
        state = build_state(cfg, data, Ranks(device), click.echo)

    def step() -> None:
        train_step(state, x, None, Noise(0, state.step, device), cfg.step)

    return cfg, state, step


class Flops(TorchDispatchMode):
    """Floating-point operations by torch's formulas; its own FlopCounterMode does not go through two derivatives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it, and count it."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += 0 if count is None else count(*args, **(kwargs or {}), out_val=out)
        return out


def flops_of(state: TrainState, cfg: Config, step: Callable[[], None]) -> float:
    """Floating-point operations of a mean step: one with the gradient penalty in every I_gp."""
    counts = []
    for start in (0, 1):  # with the penalty, without it
        state.step = start
        with Flops() as counter:
            step()
        counts.append(counter.total)
    every = cfg.loss.gp_interval if cfg.loss.w > 0 and cfg.loss.gp_weight > 0 else 1
    return float((counts[0] + (every - 1) * counts[1]) / every)


def waits_of(step: Callable[[], None], steps: int) -> int:
    """How often the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


@click.command()
@click.option("--preset", default="cifar10", show_default=True)
@click.option("--batch", default=80, show_default=True)
@click.option("--size", default=32, show_default=True, help="Side of the images.")
@click.option("--channels", default=3, show_default=True)
@click.option("--steps", default=32, show_default=True, help="Measured; a multiple of I_gp holds its penalties.")
@click.option("--only", multiple=True, type=click.Choice(list(VARIANTS)), help="Not all variants.")
@click.option("--set", "changes", multiple=True, help="Settings of all variants, as of train.")
def main(
    preset: str, batch: int, size: int, channels: int, steps: int, only: tuple[str, ...], changes: tuple[str, ...]
) -> None:
    """Print the table."""
    gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    click.echo(f"{preset}, batch {batch}, {channels}x{size}x{size}, {where}, torch {torch.__version__}")
    click.echo(f"{'variant':34} {'ms/step':>9} {'images/s':>9} {'of peak':>8} {'memory':>9} {'waits':>6} {'ready':>7}")
    flops = 0.0
    for name in only or [name for name in VARIANTS if name not in LEFT_OUT]:
        change = {**VARIANTS[name], **settings.parse_overrides(changes)}
        if change.get("train.micro_batch") == 0:
            change["train.micro_batch"] = batch // 2
        started = time.perf_counter()
        cfg, state, step = build(preset, change, batch, size, channels)
        # Training allows TF32 wherever it trains in fp32 (device.py); the first variant shows what that is worth.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "no TF32" not in name
        if not cfg.train.compile:  # the counter sees no compiled code, which does the same arithmetic
            flops = flops_of(state, cfg, step)
        state.step, each = 1, cfg.loss.gp_interval
        while state.step <= 2 * each:  # N(k) is one number here, and each kind of step comes twice: then it is recorded
            step()
        if gpu:
            torch.cuda.synchronize()
        ready = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(steps):
            step()
        if gpu:
            torch.cuda.synchronize()
        took = (time.perf_counter() - started) / steps
        kind = 0 if "no TF32" in name else 1 if "TF32" in name else 2
        peak = peak_of(where, kind) if gpu else None
        share = f"{flops / took / peak:8.1%}" if flops and peak else "       -"
        memory = f"{torch.cuda.memory_reserved() / 1e9:6.2f} GB" if gpu else "        -"
        waits = f"{waits_of(step, steps):6}" if gpu else "     -"
        click.echo(f"{name:34} {1e3 * took:9.1f} {batch / took:9.1f} {share} {memory} {waits} {ready:5.0f} s")
        del state, step
        gc.collect()
        torch.cuda.empty_cache()
    click.echo(f"{flops / batch / 1e9:.2f} GFLOP an image, with its share of the penalty steps")


if __name__ == "__main__":
    main()
