"""Zero-shot editing with a consistency model: CM Algorithm 4 and its appendix D.

Images are [B,C,H,W] in [-1, 1]; `levels` descend from t_1, see `editing_levels`. A result keeps what was given (pixels,
grey values, block means) and lies in [-1, 1]: where the algorithm leaves that range, which it does not forbid, the rest
is scaled towards what was given. Clamping would change it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from act_ray.core.consistency import one_step
from act_ray.core.noise import Noise
from act_ray.core.options import Schedule

Map = Callable[[Tensor], Tensor]

LUMA = (0.2989, 0.5870, 0.1140)  # of R, G, B


# ---------------------------------------------------------------------------------------------- Algorithm 4


@torch.no_grad()
def edit(
    model: nn.Module,
    y: Tensor,
    A: Map,
    A_inverse: Map,
    omega: Tensor,
    levels: Sequence[float],
    cfg: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """CM Algorithm 4: what A y has where omega is 0 is given, where it is 1 it is made up; len(levels) evaluations.

    omega: 0 or 1, of a shape that broadcasts to A y's. start: the mean of line 3, if other than line 2's y.
    """
    t = [torch.full((len(y),), level, device=y.device) for level in levels]

    def given(x: Tensor) -> Tensor:
        return A_inverse(A(y) * (1 - omega) + A(x) * omega)

    y = given(torch.zeros_like(y))  # line 2
    x: Tensor = (y if start is None else start) + levels[0] * noise.normal(*y.shape)  # 3
    x = model(x, t[0], labels)  # 4
    x = given(x)  # 5
    for n in range(1, len(levels)):
        x = x + math.sqrt(levels[n] ** 2 - cfg.t_min**2) * noise.normal(*y.shape)  # 7
        x = model(x, t[n], labels)  # 8
        x = given(x)  # 9
    return x


def editing_levels(steps: int, cfg: Schedule, start: float | None = None) -> list[float]:
    """t_1 > ... > t_steps, even on the t^(1/rho) axis from `start` (default T) down to above eps.

    CM's grid of N = steps + 1 without its last, eps, at which no noise is added and f(x, eps) = x.
    """
    start = cfg.t_max if start is None else start
    low, high = cfg.t_min ** (1 / cfg.rho), start ** (1 / cfg.rho)
    return [start, *(float((low + i / steps * (high - low)) ** cfg.rho) for i in range(steps - 1, 0, -1))]


def orthogonal(first: Sequence[float]) -> Tensor:
    """Q [n,n], orthogonal, with its first column along `first` [n]: the QR factor of (first, e_2, ..., e_n)."""
    matrix = torch.eye(len(first), dtype=torch.float64)
    matrix[:, 0] = torch.tensor(first, dtype=torch.float64)
    Q, R = torch.linalg.qr(matrix)
    out: Tensor = (Q * R.diagonal().sign()).float()
    return out


def towards(centre: Tensor, x: Tensor, dim: int) -> Tensor:
    """centre + s (x - centre), with the largest s <= 1 that puts it into [-1, 1]; s is common to all along `dim`.

    A weighted mean along `dim` that x and its centre have in common is kept. centre in [-1, 1], broadcast along `dim`.
    """
    d = x - centre
    room = torch.where(d > 0, 1 - centre, 1 + centre)
    s = (room / d.abs().clamp(min=1e-9)).amin(dim, keepdim=True).clamp(0, 1)
    return centre + s * d


# ---------------------------------------------------------------------------------------------- tasks


def inpaint(
    model: nn.Module,
    x: Tensor,
    mask: Tensor,
    levels: Sequence[float],
    cfg: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
) -> Tensor:
    """Fill the pixels where `mask` [B or 1,1,H,W] is 1 and keep the others as they are: A = I, omega = mask."""
    return edit(model, x, _same, _same, mask.to(x.dtype), levels, cfg, noise, labels).clamp(-1, 1)


def colorize(
    model: nn.Module,
    x: Tensor,
    levels: Sequence[float],
    cfg: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
) -> Tensor:
    """Give x [B,3,H,W], of which only the luma is used, new colours of the same luma .2989 R + .5870 G + .1140 B.

    A: the channels in an orthogonal basis whose first vector is along the luma; omega = (0, 1, 1). Colours outside
    [-1, 1] are moved towards the grey of their luma.
    """
    Q = orthogonal(LUMA).to(x.device)
    omega = torch.tensor([0.0, 1.0, 1.0], device=x.device).view(1, 3, 1, 1)
    grey = torch.einsum("bchw,c->bhw", x, torch.tensor(LUMA, device=x.device)).unsqueeze(1) / sum(LUMA)
    out = edit(
        model,
        grey.expand(x.shape),
        lambda x: torch.einsum("bchw,ck->bkhw", x, Q),
        lambda y: torch.einsum("bkhw,ck->bchw", y, Q),
        omega,
        levels,
        cfg,
        noise,
        labels,
    )
    return towards(grey, out, dim=1)


def super_resolve(
    model: nn.Module,
    x: Tensor,
    factor: int,
    levels: Sequence[float],
    cfg: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
) -> Tensor:
    """New detail for x [B,C,H,W], of which only the means of `factor` x `factor` blocks are used, and kept.

    A: each block in an orthogonal basis whose first vector is constant; omega is 0 for it and 1 for the others. Detail
    outside [-1, 1] is scaled down with the rest of its block.
    """
    Q = orthogonal([1.0] * factor**2).to(x.device)
    omega = torch.ones(factor**2, 1, 1, device=x.device)
    omega[0] = 0
    mean = _blocks(x, factor).mean(2, keepdim=True)
    out = edit(
        model,
        x,
        lambda x: torch.einsum("bcmhw,mk->bckhw", _blocks(x, factor), Q),
        lambda y: _from_blocks(torch.einsum("bckhw,mk->bcmhw", y, Q), factor),
        omega,
        levels,
        cfg,
        noise,
        labels,
    )
    return _from_blocks(towards(mean, _blocks(out, factor), dim=2), factor)


def stroke(
    model: nn.Module,
    x: Tensor,
    levels: Sequence[float],
    cfg: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
) -> Tensor:
    """An image guided by the painting x (SDEdit): A = I, omega = 1, levels that start well below T.

    CM gives this as Algorithm 4; its line 2 as printed would erase the painting, so line 3 starts from x itself.
    """
    return edit(model, x, _same, _same, torch.ones_like(x), levels, cfg, noise, labels, start=x).clamp(-1, 1)


@torch.no_grad()
def denoise(model: nn.Module, x: Tensor, level: float, labels: Tensor | None = None) -> Tensor:
    """f(x, t) for x = image + t z, t = `level` in [eps, T]: the image without its noise."""
    out: Tensor = model(x, torch.full((len(x),), level, device=x.device), labels)
    return out.clamp(-1, 1)


def interpolate(
    model: nn.Module, z1: Tensor, z2: Tensor, alpha: Tensor, cfg: Schedule, labels: Tensor | None = None
) -> Tensor:
    """One-step samples at the points `alpha` [n] in [0, 1] of the arc from noise z1 [C,H,W] to z2: [n,C,H,W]."""
    return one_step(model, slerp(z1, z2, alpha), cfg, labels).clamp(-1, 1)


def slerp(z1: Tensor, z2: Tensor, alpha: Tensor) -> Tensor:
    """sin((1-alpha) psi) / sin(psi) z1 + sin(alpha psi) / sin(psi) z2, psi the angle between z1 and z2; [n,C,H,W]."""
    a, b = z1.double(), z2.double()
    psi = torch.acos(((a * b).sum() / (a.norm() * b.norm())).clamp(-1, 1))
    alpha = alpha.double().view(-1, 1, 1, 1)
    if psi.sin() < 1e-6:  # one noise twice
        return z1.expand(len(alpha), *z1.shape)
    return ((((1 - alpha) * psi).sin() * a + (alpha * psi).sin() * b) / psi.sin()).float()


def _same(x: Tensor) -> Tensor:
    return x


def _blocks(x: Tensor, p: int) -> Tensor:
    """[B,C,H,W] -> [B,C,p*p,H/p,W/p], the pixels of each p x p block along dimension 2; H and W multiples of p."""
    b, c, h, w = x.shape
    return pixel_unshuffle(x, p).reshape(b, c, p * p, h // p, w // p)


def _from_blocks(blocks: Tensor, p: int) -> Tensor:
    out: Tensor = pixel_shuffle(blocks.flatten(1, 2), p)
    return out
