"""w_gp that follows ||grad D||^2, as p_aug of Algorithm 2 follows L_gp. Not of the paper; off unless asked for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from act_ray.core.options import Steer


@dataclass
class Steering:
    """What `collapse.action = steer` carries from step to step: scalars on the device, the same on every worker."""

    w_gp: Tensor
    log_gp: Tensor  # average of log ||grad D||^2

    @classmethod
    def start(cls, cfg: Steer, gp_weight: float, device: torch.device) -> "Steering":
        """w_gp as it is set, and an average in the middle of the corridor."""
        middle = 0.5 * (math.log(cfg.low) + math.log(cfg.high))
        return cls(torch.tensor(gp_weight, device=device), torch.tensor(middle, device=device))

    def update(self, gp: Tensor, gp_weight: float, cfg: Steer) -> None:
        """Take ||grad D||^2 of a step with a penalty, the mean over all workers.

        Above the corridor w_gp grows by `factor`, below it falls by as much; it stays between what is set and `most`.
        """
        self.log_gp = cfg.decay * self.log_gp + (1 - cfg.decay) * gp.clamp_min(1e-12).log()
        up, down = self.log_gp > math.log(cfg.high), self.log_gp < math.log(cfg.low)
        moved = torch.where(up, self.w_gp * cfg.factor, torch.where(down, self.w_gp / cfg.factor, self.w_gp))
        moved = moved.clamp(gp_weight, max(gp_weight, cfg.most))
        self.w_gp.copy_(moved)  # where it lies: a captured step reads it there
