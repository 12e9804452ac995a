"""One of two workers; worker 0 also trains alone on the whole batch, and prints how far the two end up apart.

python two_ranks.py RANK RENDEZVOUS PRECISION: prints one JSON line with, for each scenario, the largest relative
difference of any metric at each step, and of any parameter at the end.
"""

import json
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SCENARIOS: dict[str, dict[str, Any]] = {
    "act": {},
    "augmented": {"augment.enabled": True, "augment.tau": 0.001, "augment.p_step": 0.3},
    "class-conditional": {"model.num_classes": 10, "loss.w": 0.8, "loss.w_mid": 0.3},
    "monitor only": {"loss.gp_weight": 0, "collapse.monitor_interval": 2},
    "residual": {"discriminator.residual": True, "discriminator.activation": "leaky_relu", "discriminator.pool": 2},
    "consistency training": {"loss.w": 0.0, "loss.w_mid": 0.0},
    "pure GAN": {"loss.w": 1.0, "loss.w_mid": 1.0},
}
COMMON = {"train.total_steps": 12, "train.global_batch": 8, "loss.gp_interval": 2, "data.path": "digits"}


def train(dotted: dict[str, Any], steps: int) -> tuple[list[dict[str, float]], list[Tensor]]:
    from act_ray import config
    from act_ray.core.noise import Noise
    from act_ray.core.step import bare, train_step
    from act_ray.data.shards import open_data
    from act_ray.training.loop import fetch
    from act_ray.training.ranks import Ranks
    from act_ray.training.setup import build_state

    cfg, ranks, data, rows = config.load("digits", {**COMMON, **dotted}), Ranks(), open_data("digits"), []
    state = build_state(cfg, data, ranks, print)
    for step in range(steps):
        x, labels = fetch(data, cfg, step, ranks)
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world)
        metrics = train_step(state, x.to(torch.get_default_dtype()), labels, noise, cfg, ranks.mean)
        rows.append({name: ranks.mean(value).item() for name, value in metrics.items()})
        rows[-1]["p_aug"] = state.p_aug.item()
    nets: list[nn.Module] = [bare(state.model), state.teacher, state.ema, bare(state.discriminator)]
    return rows, [p.detach().clone() for net in nets for p in net.parameters()]


def apart(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-2)


def main(rank: int, rendezvous: str, precision: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if precision == "float64":  # the core keeps levels and sums in float32; here it must not round at all
        torch.set_default_dtype(torch.float64)
        Tensor.float = Tensor.double  # type: ignore[method-assign]
    steps = 3 if precision == "float32" else 9
    alone = {name: train(dotted, steps) for name, dotted in SCENARIOS.items()} if rank == 0 else {}
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    found = {}
    for name, dotted in SCENARIOS.items():
        rows, parameters = train(dotted, steps)
        if rank == 0:
            expected_rows, expected = alone[name]
            assert [set(a) for a in rows] == [set(b) for b in expected_rows]
            steps_apart = [max(apart(a[n], b[n]) for n in b) for a, b in zip(rows, expected_rows, strict=True)]
            pairs = zip(parameters, expected, strict=True)
            found[name] = (steps_apart, max(float((p - q).abs().max() / q.abs().max().clamp(min=1)) for p, q in pairs))
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
