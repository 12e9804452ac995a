"""The smallest run on Ray that is still a whole one."""

from typing import Any

TINY: dict[str, Any] = {
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
