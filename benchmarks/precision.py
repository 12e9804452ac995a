"""How far half precision turns the gradients of a trained run: `python benchmarks/precision.py RUN [--levels 10,150]`.

For each precision, on the same weights, images and noise: the relative error of the gradient of L_CT (whose two images
nearly cancel) and of L_G with respect to the generator, and of L_D with respect to D, against float32; the mean over
batches. "bias" is the error of the mean gradient over all batches: what averaging over steps does not remove.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from act_ray.core.noise import Noise
from act_ray.core.options import Step
from act_ray.core.step import TrainState, discriminator_half, generator_half, unwrap
from act_ray.data.shards import open_data
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder, read_config
from act_ray.train.batches import fetch
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

SCALE = 2.0**10

Half = Callable[[TrainState, Tensor, Tensor | None, Noise, int, Step], object]


def gradient(state: TrainState, net: nn.Module, half: Half, batch: int, N: int, step: Step, images: tuple) -> Tensor:  # type: ignore[type-arg]
    """The gradient that a half of a step leaves, flat; the learning rates are 0."""
    noise = Noise(1, batch, torch.device("cpu"))
    half(state, *images, noise, N, step)
    return torch.cat([p.grad.flatten().clone() for p in net.parameters() if p.grad is not None])


@click.command()
@click.argument("run")
@click.option("--levels", default="10,150", show_default=True, help="N, the numbers of noise levels to look at.")
@click.option("--batches", default=8, show_default=True)
@click.option("--step", "at", type=int, help="Checkpoint; 0: untrained weights. Default: the last.")
def main(run: str, levels: str, batches: int, at: int | None) -> None:
    """Compare bf16 and fp16 autocast with float32 on a run's weights."""
    torch.set_num_threads(1)
    folder = RunFolder(run)
    cfg = read_config(folder)
    assert cfg is not None, f"{run}: no run"
    data, ranks = open_data(cfg.data.path), Ranks()
    state = build_state(cfg, data, ranks, print)
    at = checkpoint.saved_steps(folder.checkpoints)[-1] if at is None else at
    if at:
        checkpoint.load(checkpoint.step_folder(Path(folder.checkpoints), at), state)
    state.step = 1  # without a penalty, which is always in float32
    G, D = unwrap(state.model), unwrap(state.D)
    state.optimizer_g = torch.optim.SGD(G.parameters(), 0.0)
    state.optimizer_d = torch.optim.SGD(D.parameters(), 0.0)
    quiet = replace(cfg.step, monitor_interval=10**9)
    parts = {
        "L_CT": (G, generator_half, replace(quiet, loss=replace(quiet.loss, w=0.0, w_mid=0.0))),
        "L_G": (G, generator_half, replace(quiet, loss=replace(quiet.loss, w=1.0, w_mid=1.0))),
        "L_D": (D, discriminator_half, quiet),
    }
    print(f"{run}, step {at:,}; torch {torch.__version__}")
    for N in map(int, levels.split(",")):
        for name, (net, half, step) in parts.items():
            found = {}
            for precision in ("fp32", "bf16", "fp16"):
                for f in (G, state.teacher):
                    f.precision = precision  # type: ignore[union-attr]
                for scaler in ("scaler_g", "scaler_d"):  # a scale that these gradients do not overflow; grad / scale
                    setattr(state, scaler, GradScaler("cpu", init_scale=SCALE) if precision == "fp16" else None)
                exact = replace(step, precision=precision)  # type: ignore[arg-type]
                found[precision] = [
                    gradient(state, net, half, b, N, exact, fetch(data, cfg, b, ranks)[0])
                    for b in range(batches)  # type: ignore[arg-type]
                ]
            whole = torch.stack(found["fp32"])
            for precision in ("bf16", "fp16"):
                other = torch.stack(found[precision])
                each = ((other - whole).norm(dim=1) / whole.norm(dim=1)).mean()
                bias = (other - whole).mean(0).norm() / whole.mean(0).norm()
                print(f"  N = {N:4d}  {name:5s} {precision}: error {100 * each:6.2f}%   bias {100 * bias:6.2f}%")


if __name__ == "__main__":
    main()
