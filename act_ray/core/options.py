"""What Algorithms 1 and 2 need to know, with the paper's CIFAR-10 values (Table 6) as defaults.

Plain dataclasses, so that `core` can be used alone. act_ray/config.py takes these defaults and adds the bounds; the
names are the same there (`schedule.s1`, `loss.w`, ...), and Config.step hands them over.
"""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Noise levels, how many of them, and the teacher's rate: paper section 2, CM section 5."""

    t_min: float = 0.002  # eps
    t_max: float = 80.0  # T
    rho: float = 7.0
    sigma_data: float = 0.5
    s0: int = 2
    s1: int = 150
    levels: Literal["paper", "authors"] = "paper"
    mu0: float = 0.9
    teacher_decay: Literal["authors", "paper", "constant"] = "authors"
    time_input: Literal["log", "linear"] = "log"


@dataclass(frozen=True)
class Loss:
    """Weights of L_f = (1 - lambda) L_CT + lambda L_G and of lambda (L_D + L_gp): paper section 3."""

    w: float = 0.3
    w_mid: float = 0.3
    adversarial: Literal["non_saturating", "saturating"] = "non_saturating"
    gp_weight: float = 5.0  # w_gp
    gp_interval: int = 16  # I_gp


@dataclass(frozen=True)
class Augment:
    """ACT-Aug, Algorithm 2."""

    enabled: bool = False
    tau: float | Literal["auto"] = 0.55  # auto: tau_ratio times what L_gp settles at, while p_aug is 0
    tau_ratio: float = 0.7
    p_step: float = 0.05  # p_r
    gp_decay: float = 0.93  # mu_p
    controller: Literal["paper", "authors"] = "paper"  # compare and then average, or average and then compare


def settling(K: int) -> range:
    """The steps whose L_gp gives `Augment.tau` = auto: from a tenth to a quarter of the budget."""
    return range(math.ceil(0.1 * K), math.ceil(0.25 * K))


@dataclass(frozen=True)
class Steer:
    """The corridor in which w_gp is to hold ||grad D||^2 (core/steer.py)."""

    low: float = 0.3
    high: float = 3.0
    factor: float = 1.1  # of w_gp, at one penalty
    most: float = 10.0  # w_gp
    decay: float = 0.9


@dataclass(frozen=True)
class Diffusion:
    """EDM's training: ln sigma ~ N(p_mean, p_std^2), Table 1 of its paper."""

    p_mean: float = -1.2
    p_std: float = 1.2


@dataclass(frozen=True)
class Step:
    """All that a training step needs besides the networks."""

    total_steps: int = 300_000  # K
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    augment: Augment = field(default_factory=Augment)
    diffusion: Diffusion = field(default_factory=Diffusion)
    steer: Steer | None = None  # w_gp follows ||grad D||^2
    conditional: bool = False  # D(x_0, x_t, t) of appendix H
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks; levels, losses and R1 are always fp32
    micro_batch: int | None = None  # images at a time, of those of a worker; None: all
    ema_decay: float = 0.9999  # of the average that is sampled and scored
    monitor_interval: int = 16  # steps between measurements of ||grad D||^2 where the penalty itself is not computed
