"""One training step of ACT. Read it beside Algorithm 1 and, for the lines on p_aug, Algorithm 2.

No logging, device, rank or Ray code: the caller hands in modules (plain or wrapped for data-parallel training), the
step's random draws and a mean over workers.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from act_ray.core.augment import Controller, augment
from act_ray.core.consistency import HALF, Preconditioned, scale_input, time_input
from act_ray.core.losses import discriminator_loss_fake, discriminator_loss_real, generator_loss, squared_gradient
from act_ray.core.noise import Noise
from act_ray.core.options import Step
from act_ray.core.schedule import adversarial_weight, noise_level, num_levels, teacher_decay
from act_ray.core.steer import Steering

Metrics = dict[str, Tensor]
Images = tuple[Tensor, Tensor | None]  # x [B,C,H,W] in [-1, 1] and labels [B]
Part = tuple[Tensor, Tensor | None, Noise]  # a micro-batch: images, labels, and its share of the draws
Objective = tuple[Tensor, Metrics]  # what is descended, a mean over images, and what is logged
Backward = Callable[[Callable[..., Objective], Sequence[Part], nn.Module, GradScaler | None], list[Metrics]]
OdeStep = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass
class TrainState:
    """Everything that a step changes; a checkpoint holds exactly this."""

    model: nn.Module  # f(.; theta): a Consistency (a Denoiser in a diffusion run), plain or data-parallel
    teacher: Preconditioned  # f(.; theta^-)
    ema: Preconditioned  # the average that is sampled and scored
    discriminator: nn.Module | None  # D, plain or wrapped; None where nothing is adversarial
    optimizer_g: Optimizer
    optimizer_d: Optimizer | None
    distance: Callable[[Tensor, Tensor], Tensor]  # d, per sample
    controller: Controller  # p_aug and what it follows
    steering: Steering | None = None  # w_gp, where it follows ||grad D||^2
    ode_step: OdeStep | None = None  # distillation: (x_t, t, t_prev, labels) -> x_{t_prev}
    scaler_g: GradScaler | None = None  # of fp16, whose gradients would underflow
    scaler_d: GradScaler | None = None
    backward: Backward = field(default_factory=lambda: backward)  # or train/graphs.py's, which replays what it launches
    step: int = 0  # k

    @property
    def D(self) -> nn.Module:
        """The discriminator of a run that has one."""
        assert self.discriminator is not None, "loss.w > 0 needs a discriminator"
        return self.discriminator


def train_step(
    state: TrainState,
    x: Tensor,
    labels: Tensor | None,
    noise: Noise,
    cfg: Step,
    mean: Callable[[Tensor], Tensor] = lambda value: value,
    own: Images | None = None,
) -> Metrics:
    """Algorithm 1 for one batch x [B,C,H,W] in [-1, 1]; returns scalars that stay on the device.

    lambda = 0 (w = 0) is consistency training and never runs D; lambda = 1 (w_mid = 1) never runs the teacher.
    `mean` averages a scalar over workers: p_aug must be the same on all of them. `own`: D's own B images, as in the
    authors' code; None: D is shown the generator's.
    """
    N = num_levels(state.step, cfg.total_steps, cfg.schedule)
    metrics = generator_half(state, x, labels, noise, N, cfg)
    update_averages(state, N, cfg)
    if cfg.loss.w > 0:
        metrics |= discriminator_half(state, *(own or (x, labels)), noise, N, cfg)
        if cfg.augment.enabled and "loss_gp" in metrics:
            loss_gp = mean(metrics["loss_gp"])
            state.controller.update(loss_gp, state.step, cfg.total_steps, cfg.loss.gp_interval, cfg.augment)
        if cfg.steer is not None and state.steering is not None and "loss_gp" in metrics:
            state.steering.update(mean(metrics["gp"]), cfg.loss.gp_weight, cfg.steer)
    state.step += 1
    return metrics


# ---------------------------------------------------------------------------------------------- generator


def generator_half(state: TrainState, x: Tensor, labels: Tensor | None, noise: Noise, N: int, cfg: Step) -> Metrics:
    """theta <- theta - eta grad L_f, the mean over micro-batches."""
    if cfg.loss.w > 0:
        unwrap(state.D).requires_grad_(False)
    objective = partial(generator_objective, state, N=N, cfg=cfg)
    return descend(
        state, objective, micro_batches(x, labels, noise, cfg), state.model, state.optimizer_g, state.scaler_g
    )


def generator_objective(
    state: TrainState, x: Tensor, labels: Tensor | None, noise: Noise, N: int, cfg: Step
) -> Objective:
    """L_f = (1 - lambda) L_CT + lambda L_G."""
    j = noise.integers(1, N, len(x))
    z = noise.normal(*x.shape)
    t, t_prev = noise_level(j, N, cfg.schedule), noise_level(j - 1, N, cfg.schedule)
    lam = adversarial_weight(j, N, cfg.loss)  # lambda_N(j)

    x_t = add_noise(x, t, z)
    fake = state.model(x_t, t, labels)
    loss_f, metrics = torch.zeros_like(lam), {}
    if cfg.loss.w_mid < 1:
        with torch.no_grad():
            x_prev = add_noise(x, t_prev, z) if state.ode_step is None else state.ode_step(x_t, t, t_prev, labels)
            target = state.teacher(x_prev, t_prev, labels)
        loss_ct = state.distance(fake, target)  # L_CT
        loss_f = loss_f + (1 - lam) * loss_ct
        metrics["loss_ct"] = loss_ct.detach().mean()
    if cfg.loss.w > 0:
        logit = discriminate(unwrap(state.D), augmented(fake, state, noise.branch("G"), cfg), x_t, t, labels, cfg)
        loss_g = generator_loss(logit, cfg.loss)  # L_G
        loss_f = loss_f + lam * loss_g
        metrics["loss_g"] = loss_g.detach().mean()

    return loss_f.mean(), {"loss_f": loss_f.detach().mean(), **metrics}


@torch.no_grad()
def update_averages(state: TrainState, N: int, cfg: Step) -> None:
    """theta^- <- mu(k) theta^- + (1 - mu(k)) theta, and the same for the average that is sampled."""
    online: list[Tensor] = list(unwrap(state.model).parameters())
    torch._foreach_lerp_(list(state.teacher.parameters()), online, 1 - teacher_decay(N, cfg.schedule))
    update_ema(state, cfg)


@torch.no_grad()
def update_ema(state: TrainState, cfg: Step) -> None:
    """The average that is sampled; its horizon grows with k, so that early steps do not linger in it."""
    online: list[Tensor] = list(unwrap(state.model).parameters())
    decay = min(cfg.ema_decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(list(state.ema.parameters()), online, 1 - decay)


# ---------------------------------------------------------------------------------------------- discriminator


def discriminator_half(state: TrainState, x: Tensor, labels: Tensor | None, noise: Noise, N: int, cfg: Step) -> Metrics:
    """theta_D <- theta_D - eta grad lambda (L_D + L_gp), the mean over micro-batches."""
    assert state.optimizer_d is not None
    unwrap(state.D).requires_grad_(True)
    penalise = cfg.loss.gp_weight > 0 and state.step % cfg.loss.gp_interval == 0
    measure = penalise or state.step % cfg.monitor_interval == 0
    objective = partial(discriminator_objective, state, N=N, cfg=cfg, penalise=penalise, measure=measure)
    return descend(state, objective, micro_batches(x, labels, noise, cfg), state.D, state.optimizer_d, state.scaler_d)


def discriminator_objective(
    state: TrainState,
    x: Tensor,
    labels: Tensor | None,
    noise: Noise,
    N: int,
    cfg: Step,
    penalise: bool,
    measure: bool,
) -> Objective:
    """lambda (L_D + L_gp): every other image is noised into a fake, the rest are reals.

    penalise: L_gp is part of it. measure: ||grad D||^2 is among the metrics.
    """
    (x_f, x_r), (labels_f, labels_r) = (x[0::2], x[1::2]), split(labels)
    j = torch.cat([noise.integers(1, N, len(x_f)), noise.integers(1, N, len(x_r))])  # independent draws
    z = noise.normal(*x_f.shape)
    t, lam = noise_level(j, N, cfg.schedule), adversarial_weight(j, N, cfg.loss)
    t_f, t_r = t.chunk(2)
    lam_f, lam_r = lam.chunk(2)

    with torch.no_grad():
        x_tf = add_noise(x_f, t_f, z)
        x_f = unwrap(state.model)(x_tf, t_f, labels_f)
        x_tr = add_noise(x_r, t_r, noise.normal(*x_r.shape)) if cfg.conditional else None
        x_f = augmented(x_f, state, noise.branch("D fake"), cfg)
        x_r = augmented(x_r, state, noise.branch("D real"), cfg)
    x_r.requires_grad_(measure)

    if penalise:  # apart: the penalty would differentiate D twice at the fakes, too
        with torch.compiler.set_stance("force_eager"):  # a compiled graph is neither for that nor for half a batch
            logit_f = discriminate(state.D, x_f, x_tf, t_f, labels_f, cfg, exact=True)
            with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
                logit_r = discriminate(state.D, x_r, x_tr, t_r, labels_r, cfg, exact=True)
    else:
        x_t, labels = both(x_tf, x_tr), both(labels_f, labels_r)
        logit_f, logit_r = discriminate(state.D, torch.cat([x_f, x_r]), x_t, t, labels, cfg).chunk(2)
    fake, real = discriminator_loss_fake(logit_f), discriminator_loss_real(logit_r)
    loss_d = (lam_f * fake).mean() + (lam_r * real).mean()
    metrics = {"loss_d": (fake.mean() + real.mean()).detach(), "logit_gap": (logit_r.mean() - logit_f.mean()).detach()}
    if measure:
        gp = squared_gradient(logit_r, x_r, differentiable=penalise)  # ||grad D||^2
        metrics["gp"] = gp.detach().mean()
        if penalise:
            loss_gp = (cfg.loss.gp_weight if state.steering is None else state.steering.w_gp) * gp  # L_gp
            loss_d = loss_d + (lam_r * loss_gp).mean()
            metrics["loss_gp"] = loss_gp.detach().mean()
    return loss_d, metrics


# ---------------------------------------------------------------------------------------------- one-liners


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside a data-parallel wrapper: its forward alone, without gradient exchange."""
    inner: nn.Module = getattr(module, "module", module)
    return inner


def add_noise(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """x_t = x + t z."""
    return x + t.view(-1, 1, 1, 1) * z


def augmented(x: Tensor, state: TrainState, noise: Noise, cfg: Step) -> Tensor:
    """What D sees: A(x, p_aug), or x."""
    return augment(x, state.controller.p_aug, noise) if cfg.augment.enabled else x


def split(labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if labels is None else (labels[0::2], labels[1::2])


def both(fakes: Tensor | None, reals: Tensor | None) -> Tensor | None:
    return None if fakes is None or reals is None else torch.cat([fakes, reals])


def discriminate(
    D: nn.Module, x: Tensor, x_t: Tensor | None, t: Tensor, labels: Tensor | None, cfg: Step, exact: bool = False
) -> Tensor:
    """Logits [B] of D(x, t), or D(x, x_t, t). `exact`: in float32, whatever the precision."""
    if cfg.conditional:
        assert x_t is not None
        x = torch.cat([x, scale_input(x_t, t, cfg.schedule)], 1)
    with torch.autocast(x.device.type, HALF.get(cfg.precision), enabled=cfg.precision in HALF and not exact):
        logit: Tensor = D(x, time_input(t, cfg.schedule), labels)
    return logit


def micro_batches(x: Tensor, labels: Tensor | None, noise: Noise, cfg: Step) -> list[Part]:
    """The batch in pieces of cfg.micro_batch images; no number depends on how many there are."""
    n = 1 if cfg.micro_batch is None else len(x) // cfg.micro_batch
    return list(zip(x.chunk(n), [None] * n if labels is None else labels.chunk(n), noise.parts(n), strict=True))


def backward(
    objective: Callable[..., Objective], parts: Sequence[Part], module: nn.Module, scaler: GradScaler | None
) -> list[Metrics]:
    """The mean gradient of the objective over the micro-batches, in `module`'s weights; the metrics of each."""
    module.zero_grad(set_to_none=True)
    rows: list[Metrics] = []
    for number, part in enumerate(parts, 1):
        with ExitStack() as modes:
            if number < len(parts) and hasattr(module, "no_sync"):
                modes.enter_context(module.no_sync())  # type: ignore[operator]  # gradients are exchanged with the last
            value, metrics = objective(*part)
            value = value / len(parts)
            (value if scaler is None else scaler.scale(value)).backward()  # type: ignore[no-untyped-call]
        rows.append(metrics)
    return rows


def descend(
    state: TrainState,
    objective: Callable[..., Objective],
    parts: Sequence[Part],
    module: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler | None,
) -> Metrics:
    """One update along the mean gradient; with a scaler, none where it overflowed. The mean metrics."""
    rows = state.backward(objective, parts, module, scaler)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return rows[0] if len(rows) == 1 else {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
