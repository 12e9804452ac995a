"""Builds what training needs from a config: networks, optimisers, wrappers."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from act_ray.config import Config
from act_ray.core import losses
from act_ray.core.augment import Controller
from act_ray.core.consistency import Consistency, Preconditioned
from act_ray.core.diffusion import Denoiser, ode_step
from act_ray.core.steer import Steering
from act_ray.core.step import OdeStep, TrainState, backward, discriminate
from act_ray.data.shards import ImageData
from act_ray.models.discriminators import build_discriminator
from act_ray.models.perceptual import Lpips
from act_ray.models.unet import UNet
from act_ray.train.graphs import Graphs
from act_ray.train.preflight import distillation_teacher
from act_ray.train.radam import FusedRAdam
from act_ray.train.ranks import Ranks


def build_state(cfg: Config, data: ImageData, ranks: Ranks, warn: Callable[[str], None]) -> TrainState:
    """A fresh state at step 0, the same on every worker."""
    _, channels, size, _ = data.images.shape
    device = ranks.device
    torch.manual_seed(cfg.train.seed)
    wrapper = Denoiser if cfg.train.method == "diffusion" else Consistency
    network = UNet(cfg, channels, size)
    model = wrapper(network, cfg.step.schedule, cfg.train.precision).to(device)
    discriminator = None
    if cfg.adversarial:
        discriminator = ranks.together(lambda: build_discriminator(cfg, channels, size)).to(device)
    trained = [model] if discriminator is None else [model, discriminator]
    if cfg.train.channels_last:
        for net in trained:
            net.to(memory_format=torch.channels_last)
    teacher, ema = (copy.deepcopy(model).requires_grad_(False).eval() for _ in range(2))
    if cfg.train.gradient_checkpointing:
        network.unet.enable_gradient_checkpointing()
    if cfg.train.compile:
        x = torch.zeros(
            cfg.train.micro_batch or cfg.train.global_batch // ranks.world, channels, size, size, device=device
        )
        compile_networks(cfg, [*trained, teacher], x, warn)
    optim = cfg.optim
    # With augmentation and micro-batches a graph's draws were wrong once, and have not been seen right on a GPU since.
    tried = not cfg.augment.enabled and cfg.train.micro_batch is None
    graphs = Graphs(ranks, warn) if cfg.train.cuda_graphs and tried and device.type == "cuda" else None
    wrap = partial(data_parallel, ranks=ranks) if graphs is None else lambda module: module
    return TrainState(
        model=wrap(model),
        teacher=teacher,
        ema=ema,
        discriminator=None if discriminator is None else wrap(discriminator),
        optimizer_g=optimizer(cfg, model, optim.lr_g, optim.beta2_g),
        optimizer_d=None
        if discriminator is None
        else optimizer(cfg, discriminator, optim.lr_d or optim.lr_g, optim.beta2_d),
        distance=ranks.together(lambda: distance(cfg, device)),
        controller=Controller.start(cfg.step.augment, device),
        steering=None if cfg.step.steer is None else Steering.start(cfg.step.steer, cfg.loss.gp_weight, device),
        scaler_g=scaler(cfg, device),
        scaler_d=None if discriminator is None else scaler(cfg, device),
        ode_step=ranks.together(lambda: distillation(cfg, data, device)),
        backward=graphs or backward,
    )


def distillation(cfg: Config, data: ImageData, device: torch.device) -> OdeStep | None:
    """One ODE step of the pretrained denoiser of distill.teacher, from t_j to t_{j-1}; None in consistency training."""
    source = distillation_teacher(cfg, data)
    if source is None:
        return None
    denoiser = source.build(device, denoiser=True)
    return lambda x_t, t, t_prev, labels: ode_step(denoiser, x_t, t, t_prev, labels, cfg.distill.solver)


def data_parallel(module: nn.Module, ranks: Ranks) -> nn.Module:
    """Each network in a data-parallel wrapper of its own: the two halves of a step never wait for each other's."""
    if ranks.world == 1:
        return module
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def optimizer(cfg: Config, module: nn.Module, lr: float, beta2: float) -> Optimizer:
    """RAdam (Table 6), or Adam, each with Adam's fused kernel."""
    betas = (cfg.optim.beta1, beta2)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if cfg.optim.name == "adam":
        return torch.optim.Adam(weights, lr, betas, fused=True)
    return FusedRAdam(weights, lr, betas, foreach=True)


def scaler(cfg: Config, device: torch.device) -> GradScaler | None:
    """For fp16: the loss is scaled, so that small gradients do not vanish, by as much as does not overflow."""
    return GradScaler(device.type) if cfg.train.precision == "fp16" else None


def distance(cfg: Config, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """d of L_CT; LPIPS loads its network only where L_CT is used at all."""
    if cfg.loss.distance == "lpips" and cfg.consistent:
        return Lpips(cfg.loss).to(device)
    return {"l2": losses.l2, "l1": losses.l1}.get(cfg.loss.distance, losses.pseudo_huber)


def compile_networks(cfg: Config, nets: list[nn.Module], x: Tensor, warn: Callable[[str], None]) -> None:
    """torch.compile in place; a network that does not compile for batches like `x` stays eager, and `warn` says so.

    The step runs gradient-penalty forwards eagerly in any case: a compiled graph cannot be differentiated twice.
    """
    t = torch.ones(len(x), device=x.device)
    labels = None if cfg.model.num_classes is None else torch.zeros(len(x), dtype=torch.long, device=x.device)
    for net in nets:
        net.compile()
        try:
            out: Tensor = (
                net(x, t, labels) if isinstance(net, Preconditioned) else discriminate(net, x, x, t, labels, cfg.step)
            )
            if out.requires_grad:
                out.sum().backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the compiler's backend raises
            net._compiled_call_impl = None
            first = str(error).strip().splitlines()[0] if str(error).strip() else ""
            warn(f"train.compile: {type(net).__name__} stays eager ({type(error).__name__}: {first[:160]})")
        net.zero_grad(set_to_none=True)
    if cfg.loss.w > 0 and cfg.loss.gp_weight > 0:
        warn(f"train.compile: every {cfg.loss.gp_interval}th discriminator step (the gradient penalty) runs eagerly")
