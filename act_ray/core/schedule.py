"""Schedules of ACT as pure functions: N(k), mu(k), t_j and lambda_N(j)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from act_ray.core.options import Loss, Schedule

if TYPE_CHECKING:
    from torch import Tensor  # a page that shows N(k) needs no torch

# ---------------------------------------------------------------------------------------------- N(k)


def num_levels(k: int, K: int, cfg: Schedule) -> int:
    """N(k), the number of noise levels at step k of K.

    Paper (after CM, appendix C): ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1, in [s0, s1+1].
    Authors' code: round(sqrt(k/K (s1^2 - s0^2) + s0^2)), in [s0, s1].
    """
    s0, s1 = cfg.s0, cfg.s1
    if cfg.levels == "authors":
        return round(math.sqrt(k / K * (s1**2 - s0**2) + s0**2))
    return math.ceil(math.sqrt(k / K * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1


# ---------------------------------------------------------------------------------------------- mu(k)


def teacher_decay(N: int, cfg: Schedule) -> float:
    """mu(k) = exp(s0 ln(mu0) / (N-1)) (CM and the authors' code), or .../N (as printed in the paper), or mu0 always."""
    if cfg.teacher_decay == "constant" or cfg.mu0 == 0:
        return cfg.mu0
    return math.exp(cfg.s0 * math.log(cfg.mu0) / (N - 1 if cfg.teacher_decay == "authors" else N))


# ---------------------------------------------------------------------------------------------- t_j


def noise_level(j: Tensor, N: int, cfg: Schedule) -> Tensor:
    """t_j = (eps^(1/rho) + j/(N-1) (T^(1/rho) - eps^(1/rho)))^rho, j in {0..N-1}; [B] -> [B], float32 (EDM eq. 5).

    Computed in float64: neighbouring levels near eps differ by less than half precision can hold.
    """
    low, high = cfg.t_min ** (1 / cfg.rho), cfg.t_max ** (1 / cfg.rho)
    t: Tensor = (low + j.double() / (N - 1) * (high - low)) ** cfg.rho
    return t.float()


# ---------------------------------------------------------------------------------------------- lambda_N(j)


def adversarial_weight(j: Tensor, N: int, cfg: Loss) -> Tensor:
    """lambda_N(j) = w (j/(N-1))^kappa with kappa = log_{1/2}(w_mid/w), so w at N-1 and w_mid half-way; [B] -> [B]."""
    if cfg.w == 0:
        return (0 * j).float()
    kappa = -math.log2(cfg.w_mid / cfg.w) if cfg.w_mid > 0 else math.inf
    return (cfg.w * (j.double() / (N - 1)) ** kappa).float()
