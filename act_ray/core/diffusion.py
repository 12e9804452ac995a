"""The diffusion side: EDM's denoiser, its loss, and the solvers of its probability-flow ODE.

A denoiser D(x, t) gives the direction of the ODE, dx/dt = (x - D(x, t)) / t (EDM eq. 4). Consistency distillation takes
one solver step of it where consistency training takes the data's own noise (CM Algorithm 2).
"""

from functools import partial

import torch
from torch import Tensor

from act_ray.core.consistency import Preconditioned
from act_ray.core.losses import l2
from act_ray.core.noise import Noise
from act_ray.core.options import Schedule, Step
from act_ray.core.schedule import noise_level
from act_ray.core.step import Metrics, Objective, TrainState, add_noise, descend, micro_batches, update_ema


class Denoiser(Preconditioned):
    """D(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, t') (EDM eq. 7 and Table 1)."""

    def scalings(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sd = self.cfg.sigma_data
        return sd**2 / (t**2 + sd**2), t * sd / (t**2 + sd**2).sqrt()


# ---------------------------------------------------------------------------------------------- training


def diffusion_step(state: TrainState, x: Tensor, labels: Tensor | None, noise: Noise, cfg: Step) -> Metrics:
    """One update of the denoiser on x [B,C,H,W], the mean over micro-batches."""
    objective = partial(diffusion_objective, state, cfg=cfg)
    parts = micro_batches(x, labels, noise, cfg)
    metrics = descend(state, objective, parts, state.model, state.optimizer_g, state.scaler_g)
    update_ema(state, cfg)
    state.step += 1
    return metrics


def diffusion_objective(state: TrainState, x: Tensor, labels: Tensor | None, noise: Noise, cfg: Step) -> Objective:
    """The weighted error of the denoised image at ln t ~ N(p_mean, p_std^2), EDM section 5 and Table 1."""
    t = (cfg.diffusion.p_mean + cfg.diffusion.p_std * noise.normal(len(x))).exp()
    z = noise.normal(*x.shape)
    loss = denoising_loss(state.model(add_noise(x, t, z), t, labels), x, t, cfg.schedule).mean()
    return loss, {"loss_dsm": loss.detach()}


def denoising_loss(denoised: Tensor, x: Tensor, t: Tensor, cfg: Schedule) -> Tensor:
    """(t^2 + sd^2) / (t sd)^2 mean((D - x)^2): EDM's weight, which makes it about 1 at every level; [B,...] -> [B]."""
    return (t**2 + cfg.sigma_data**2) / (t * cfg.sigma_data) ** 2 * l2(denoised, x)


# ---------------------------------------------------------------------------------------------- solvers


@torch.no_grad()
def ode_step(
    denoiser: torch.nn.Module, x: Tensor, t: Tensor, t_next: Tensor, labels: Tensor | None, solver: str
) -> Tensor:
    """x_t -> x_{t_next} along the ODE, t and t_next [B] above 0: Euler (one evaluation) or Heun (two; EDM's)."""
    s, s_next = t.view(-1, 1, 1, 1), t_next.view(-1, 1, 1, 1)
    d = (x - denoiser(x, t, labels)) / s
    x_next: Tensor = x + (s_next - s) * d
    if solver == "heun":
        d_next = (x_next - denoiser(x_next, t_next, labels)) / s_next
        x_next = x + (s_next - s) * (d + d_next) / 2
    return x_next


@torch.no_grad()
def sample_ode(denoiser: torch.nn.Module, z: Tensor, steps: int, cfg: Schedule, labels: Tensor | None = None) -> Tensor:
    """EDM Algorithm 1 without churn: from x_T = T z by Heun down `steps` levels, then D; 2 steps - 1 evaluations."""
    levels = noise_level(torch.arange(steps, device=z.device), max(steps, 2), cfg)
    if steps == 1:
        levels = torch.full_like(levels, cfg.t_max)
    x = cfg.t_max * z
    for j in range(steps - 1, 0, -1):
        x = ode_step(denoiser, x, levels[j].expand(len(z)), levels[j - 1].expand(len(z)), labels, "heun")
    out: Tensor = denoiser(x, levels[0].expand(len(z)), labels)
    return out
