"""The settings of the smallest runs that are still whole ones, by what a test needs of them."""

import json
from collections.abc import Mapping
from typing import Any

Settings = dict[str, Any]

# One level of eight channels.
NETWORK: Settings = {"model.block_out_channels": [8], "model.down": "D", "model.up": "U"}

# Two channels to a group: a group norm of single channels undoes what t and the class add.
PAIRED: Settings = {**NETWORK, "model.norm_num_groups": 4}

# Nothing divides anything: flushes, scores and checkpoints each come at steps of their own.
TINY: Settings = {
    "train.total_steps": 12,
    "train.global_batch": 8,
    "train.log_every": 3,
    "train.threads": 1,
    "eval.every": 5,
    "eval.samples": 16,
    "eval.batch": 8,
    "eval.grid": 4,
    "checkpoint.every": 4,
    **NETWORK,
    "discriminator.layers_per_block": 1,
    "loss.gp_interval": 4,
    "collapse.monitor_interval": 3,
}

# Two score batches, so that two workers share them, and a checkpoint with each score.
ON_RAY: Settings = {
    "train.total_steps": 12,
    "train.global_batch": 8,
    "train.log_every": 2,
    "train.threads": 1,
    "eval.every": 4,
    "eval.samples": 64,
    "eval.batch": 32,
    "eval.grid": 16,
    "checkpoint.every": 4,
    "model.block_out_channels": [8, 8],
    "model.norm_num_groups": 4,
    "discriminator.layers_per_block": 1,
}

# Two steps, for what reads a finished run.
FINISHED: Settings = {
    **PAIRED,
    "discriminator.layers_per_block": 1,
    "train.total_steps": 2,
    "train.global_batch": 8,
    "train.threads": 1,
    "eval.every": 2,
    "eval.samples": 16,
    "eval.batch": 8,
    "eval.grid": 12,
    "checkpoint.every": 2,
}

AUGMENTED: Settings = {"augment.enabled": True, "augment.p_step": 0.4}
DIFFUSION: Settings = {"train.method": "diffusion", "eval.ode_steps": 2}


def as_options(settings: Mapping[str, Any]) -> list[str]:
    """As arguments of a command: --set NAME=VALUE for each; JSON is YAML."""
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
