"""The consistency function f(x, t) around a network F, and its samplers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from act_ray.core.options import Schedule

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # what autocast computes in, by Step.precision


def time_input(t: Tensor, cfg: Schedule) -> Tensor:
    """What the networks are told of t: 250 ln t (CM's rescaling), or t itself (authors' code); [B] -> [B]."""
    return 250 * torch.log(t) if cfg.time_input == "log" else t


class Preconditioned(nn.Module, ABC):
    """c_skip(t) x + c_out(t) F(c_in(t) x, t') around a network F, with c_in = 1 / sqrt(t^2 + sd^2) (EDM eq. 7).

    The network's forward runs under autocast where half precision is asked for; t and the combination stay in
    float32. clip: clamp the answers to [-1, 1], as OpenAI's samplers do at every evaluation (clip_denoised); never in
    training.
    """

    def __init__(self, network: nn.Module, cfg: Schedule, precision: str = "fp32", clip: bool = False) -> None:
        super().__init__()
        self.network, self.cfg, self.precision, self.clip = network, cfg, precision, clip

    @abstractmethod
    def scalings(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip(t), c_out(t)."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B,C,H,W] at noise level t [B] -> the clean image, same shape, float32."""
        s = t.view(-1, 1, 1, 1)
        c_skip, c_out = self.scalings(s)
        with torch.autocast(x.device.type, HALF.get(self.precision), enabled=self.precision in HALF):
            F = self.network(scale_input(x, t, self.cfg), time_input(t, self.cfg), labels)
        out: Tensor = c_skip * x + c_out * F.float()
        return out.clamp(-1, 1) if self.clip else out


class Consistency(Preconditioned):
    """f(x, t), with f(x, eps) = x (CM section 3 and appendix C)."""

    def scalings(self, t: Tensor) -> tuple[Tensor, Tensor]:
        eps, sd = self.cfg.t_min, self.cfg.sigma_data
        return sd**2 / ((t - eps) ** 2 + sd**2), sd * (t - eps) / (t**2 + sd**2).sqrt()


def scale_input(x: Tensor, t: Tensor, cfg: Schedule) -> Tensor:
    """c_in(t) x: a noisy image brought to unit variance; [B,C,H,W], [B] -> [B,C,H,W]."""
    return x * (1 / (t**2 + cfg.sigma_data**2).sqrt()).view(-1, 1, 1, 1)


# ---------------------------------------------------------------------------------------------- samplers


@torch.no_grad()
def one_step(model: nn.Module, z: Tensor, cfg: Schedule, labels: Tensor | None = None) -> Tensor:
    """x = f(T z, T) for z ~ N(0, I); [B,C,H,W] -> [B,C,H,W] in about [-1, 1]."""
    T = torch.full((len(z),), cfg.t_max, device=z.device)
    out: Tensor = model(cfg.t_max * z, T, labels)
    return out


@torch.no_grad()
def multistep(
    model: nn.Module, z: Sequence[Tensor], levels: Sequence[float], cfg: Schedule, labels: Tensor | None = None
) -> Tensor:
    """CM Algorithm 1: one step from T, then for each descending tau: x <- f(x + sqrt(tau^2 - eps^2) z, tau).

    `z` holds one noise tensor for T and one for each of `levels`; len(levels) + 1 network evaluations.
    """
    x = one_step(model, z[0], cfg, labels)
    for tau, noise in zip(levels, z[1:], strict=True):
        x_tau = x + math.sqrt(tau**2 - cfg.t_min**2) * noise
        x = model(x_tau, torch.full((len(x),), tau, device=x.device), labels)
    return x


def multistep_levels(nfe: int, cfg: Schedule) -> list[float]:
    """The tau of `multistep` for `nfe` evaluations: even on the t^(1/rho) axis below T; none for one step.

    CM searches them; its two-step ImageNet-64 sampler has its level near the middle of that axis as well.
    """
    low, high = cfg.t_min ** (1 / cfg.rho), cfg.t_max ** (1 / cfg.rho)
    return [float((low + i / nfe * (high - low)) ** cfg.rho) for i in range(nfe - 1, 0, -1)]
