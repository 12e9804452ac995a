"""The losses of ACT, each per sample ([B]); the step reduces them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from act_ray.core.options import Loss

# ---------------------------------------------------------------------------------------------- distance


def l2(a: Tensor, b: Tensor) -> Tensor:
    """mean((a - b)^2) over CHW, the scale that CM's code uses; [B,C,H,W] -> [B]."""
    return (a - b).square().flatten(1).mean(1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """mean |a - b| over CHW; [B,C,H,W] -> [B]."""
    return (a - b).abs().flatten(1).mean(1)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(||a - b||^2 + c^2) - c with c = 0.00054 sqrt(CHW) (Song & Dhariwal 2023); [B,C,H,W] -> [B]."""
    c = 0.00054 * math.sqrt(a[0].numel())
    return ((a - b).square().flatten(1).sum(1) + c**2).sqrt() - c


# ---------------------------------------------------------------------------------------------- adversarial


def generator_loss(fake_logit: Tensor, cfg: Loss) -> Tensor:
    """L_G: softplus(-logit) (authors' code), or log(1 - D) = -softplus(logit) (paper, eq. 13); [B] -> [B]."""
    return F.softplus(-fake_logit) if cfg.adversarial == "non_saturating" else -F.softplus(fake_logit)


def discriminator_loss_fake(fake_logit: Tensor) -> Tensor:
    """-log(1 - D(fake)) = softplus(logit), L_D's part for fakes; [B] -> [B]."""
    return F.softplus(fake_logit)


def discriminator_loss_real(real_logit: Tensor) -> Tensor:
    """-log D(real) = softplus(-logit), L_D's part for reals; [B] -> [B]."""
    return F.softplus(-real_logit)


def squared_gradient(real_logit: Tensor, x_real: Tensor, differentiable: bool) -> Tensor:
    """||grad_x D(x_r, t)||^2, summed over CHW, without w_gp (R1: Mescheder et al. 2018); [B], [B,C,H,W] -> [B]."""
    (grad,) = torch.autograd.grad(real_logit.sum(), x_real, create_graph=differentiable, retain_graph=True)
    return grad.float().square().flatten(1).sum(1)
