"""One of two workers; worker 0 also trains alone on the whole batch, and prints how far the two end up apart.

python two_ranks.py RANK RENDEZVOUS: prints one JSON line with, for each precision and scenario, the difference of
each metric at each step, and the largest of any parameter at the end.
"""

import json
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from act_ray import settings
from act_ray.core.noise import Noise
from act_ray.core.step import train_step, unwrap
from act_ray.data.shards import open_data
from act_ray.train.batches import fetch
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

SCENARIOS: dict[str, dict[str, Any]] = {
    "act": {},
    "augmented": {"augment.enabled": True, "augment.tau": 0.001, "augment.p_step": 0.3},
    "class-conditional": {"model.num_classes": 10, "loss.w": 0.8, "loss.w_mid": 0.3},
    "monitor only": {"loss.gp_weight": 0, "collapse.monitor_interval": 2},
    "residual": {"discriminator.residual": True, "discriminator.activation": "leaky_relu", "discriminator.head": "act"},
    "consistency training": {"loss.w": 0.0, "loss.w_mid": 0.0},
    "pure GAN": {"loss.w": 1.0, "loss.w_mid": 1.0},
    "shared images": {"train.discriminator_images": "shared"},
    "flipped": {"data.flip": True},
    "own threshold": {"augment.enabled": True, "augment.tau": "auto", "augment.p_step": 0.3, "loss.gp_interval": 1},
    "micro-batches": {"train.micro_batch": 2},
    "micro-batches, augmented": {
        "train.micro_batch": 2, "augment.enabled": True, "augment.tau": 0.001, "augment.p_step": 0.3,
        "model.num_classes": 10,
    },
    "stylegan2": {"discriminator.kind": "stylegan2", "train.global_batch": 12},
    "stylegan2, micro-batches": {
        "discriminator.kind": "stylegan2", "train.global_batch": 32, "train.micro_batch": 8,
    },
}  # fmt: skip
COMMON: dict[str, Any] = {
    "train.total_steps": 12,
    "train.global_batch": 8,
    "loss.gp_interval": 2,
    "model.block_out_channels": [8, 16],
    "model.norm_num_groups": 4,
    "discriminator.layers_per_block": 1,
}


class Alone(Ranks):
    """One worker, although the other one is there."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.world = 0, 1


def train(dotted: dict[str, Any], steps: int, ranks: Ranks) -> tuple[list[dict[str, float]], list[Tensor]]:
    """Each step's metrics and the parameters at the end."""
    cfg, data, rows = settings.load("digits", {**COMMON, **dotted}), open_data("digits"), []
    state = build_state(cfg, data, ranks, print)
    for step in range(steps):
        images = fetch(data, cfg, step, ranks)
        (x, labels), own = (part and (part[0].to(torch.get_default_dtype()), part[1]) for part in images)
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world)
        metrics = train_step(state, x, labels, noise, cfg.step, ranks.mean, own)
        rows.append({name: ranks.mean(value).item() for name, value in metrics.items()})
        rows[-1]["p_aug"] = state.controller.p_aug.item()
    nets: list[nn.Module] = [unwrap(state.model), state.teacher, state.ema]
    nets += [] if state.discriminator is None else [unwrap(state.discriminator)]
    return rows, [p.detach().clone() for net in nets for p in net.parameters()]


def apart(name: str, a: float, b: float) -> float:
    """Relative, except for the difference of two logits, which are of order 1 each."""
    return abs(a - b) / max(abs(a), abs(b), 1.0 if name == "logit_gap" else 1e-3)


def in_double() -> None:
    """The core keeps levels and sums in float32; to tell an error from round-off it must not round at all."""
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]


def main(rank: int, rendezvous: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    plan = [("float32", name, 3) for name in ("act", "augmented")] + [("float64", name, 4) for name in SCENARIOS]
    found: dict[str, Any] = {"float32": {}, "float64": {}}
    for precision, name, steps in plan:
        if precision == "float64":
            in_double()
        rows, parameters = train(SCENARIOS[name], steps, Ranks())
        if rank == 0:
            alone, expected = train(SCENARIOS[name] | {"train.micro_batch": None}, steps, Alone())
            assert [set(a) for a in rows] == [set(b) for b in alone]
            metrics = [{n: apart(n, a[n], b[n]) for n in b} for a, b in zip(rows, alone, strict=True)]
            pairs = zip(parameters, expected, strict=True)
            worst = max(float((p - q).abs().max() / q.abs().max().clamp(min=1)) for p, q in pairs)
            found[precision][name] = {"metrics": metrics, "parameters": worst}
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
