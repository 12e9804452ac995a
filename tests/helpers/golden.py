"""A tiny deterministic run, step by step; `python -m tests.helpers.golden` records its losses anew.

Record anew only when a change of the algorithm is meant, and say so in the commit.
"""

import json
from pathlib import Path
from typing import Any

import torch

from act_ray import settings
from act_ray.core.noise import Noise
from act_ray.core.step import train_step
from act_ray.data.shards import open_data
from act_ray.train.batches import fetch
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

FILE = Path(__file__).parents[1] / "core" / "golden_digits.json"
SETTINGS: dict[str, Any] = {
    "train.total_steps": 10,
    "train.global_batch": 8,
    "loss.gp_interval": 4,
    "loss.w": 0.7,
    "loss.w_mid": 0.2,
    "collapse.monitor_interval": 3,
    "augment.enabled": True,
    "augment.tau": 0.001,
    "augment.p_step": 0.2,
    "model.num_classes": 10,
}


def run(**more: Any) -> list[dict[str, float]]:
    """Each step's metrics, with p_aug after it."""
    cfg = settings.load("digits", {**SETTINGS, **{name.replace("__", "."): v for name, v in more.items()}})
    data, ranks = open_data(cfg.data.path), Ranks()
    state, rows = build_state(cfg, data, ranks, print), []
    for step in range(cfg.train.total_steps):
        (x, labels), own = fetch(data, cfg, step, ranks)
        noise = Noise(cfg.train.seed, step, ranks.device)
        metrics = train_step(state, x, labels, noise, cfg.step, ranks.mean, own)
        rows.append({**{name: value.item() for name, value in metrics.items()}, "p_aug": state.controller.p_aug.item()})
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps(run(), indent=1) + "\n")
