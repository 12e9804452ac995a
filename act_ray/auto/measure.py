"""What a step and a score take here. The feature network and the real images' moments are in the cache afterwards."""

import time
from collections.abc import Callable

import torch

from act_ray.auto.plan import Costs
from act_ray.config import Config
from act_ray.data.shards import open_data
from act_ray.device import best_device, prepare_process
from act_ray.doctor.measure import measure
from act_ray.runs import checkpoint
from act_ray.train.ranks import Ranks
from act_ray.train.scoring import Scorer
from act_ray.train.setup import build_state


def measure_costs(cfg: Config, step: float, at_once: int, say: Callable[[str], None]) -> Costs:
    """`step`: seconds of a training step, where they are known; its memory is measured by steps of this process."""
    data, device = open_data(cfg.data.path, cfg.data.decode, say), best_device()
    found = measure(cfg, data, 0, None)
    prepare_process(cfg, at_once)
    ranks = Ranks(device)
    scorer = Scorer(cfg, data, ranks, say)
    state = build_state(cfg, data, ranks, lambda line: None)
    networks = checkpoint.modules(state)
    began = time.monotonic()
    with torch.no_grad():
        scorer({name: networks[name] for name in cfg.scored_weights})
    return Costs(max(step, found.seconds), time.monotonic() - began, found.memory, found.gpu)
