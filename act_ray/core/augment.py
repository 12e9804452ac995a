"""A(x, p): StyleGAN2-ADA's blit, geometric and colour augmentations, differentiable; and the controller of p_aug.

Each transform is applied to each sample with the one probability p, and draws from a stream of its own, so that a new
one shifts no other's draws. It gives a matrix per sample. The matrices are composed and the images warped once, which
costs a tenth of a chain of augmentation modules; kornia has the warp and the rotation of hue. No constant is built from
a list: on a GPU its copy from the host would wait for all that is queued.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from kornia.geometry import axis_angle_to_rotation_matrix, warp_affine
from torch import Tensor

from act_ray.core.noise import Noise
from act_ray.core.options import Augment, settling

# x [B,C,H,W], p, noise -> matrices [B,3,3] (geometry, in pixels) or [B,4,4] (colour), and which samples they change [B]
Transform = Callable[[Tensor, Tensor, Noise], tuple[Tensor, Tensor]]


def augment(
    x: Tensor,
    p: Tensor,
    noise: Noise,
    geometry: Sequence[Transform] | None = None,
    colour: Sequence[Transform] | None = None,
) -> Tensor:
    """A(x, p_aug); x [B,C,H,W] in [-1, 1], p a scalar tensor in [0, 1]. Exactly x where no transform was drawn."""
    C, H, W = x.shape[1:]
    matrix, moved = compose(GEOMETRY if geometry is None else geometry, x, p, noise)
    there, back = _shift_by((W - 1) / 2, (H - 1) / 2, matrix), _shift_by((1 - W) / 2, (1 - H) / 2, matrix)
    matrix = there @ matrix @ back  # about the centre
    warped = warp_affine(x, matrix[:, :2], (H, W), padding_mode="reflection", align_corners=True)
    x = torch.where(moved.view(-1, 1, 1, 1), warped, x)
    matrix, tinted = compose((COLOUR if C == 3 else GREY) if colour is None else colour, x, p, noise)
    painted = torch.einsum("bij,bjhw->bihw", matrix[:, :C, :C], x) + matrix[:, :C, 3].view(-1, C, 1, 1)
    return torch.where(tinted.view(-1, 1, 1, 1), painted, x)


def compose(transforms: Sequence[Transform], x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """The product of the transforms' matrices, the first applied first, and which samples any of them changes [B]."""
    drawn = [transform(x, p, noise.branch(transform.__name__)) for transform in transforms]
    matrix, changed = drawn[0]
    for factor, hit in drawn[1:]:
        matrix, changed = factor @ matrix, changed | hit
    return matrix, changed


# ---------------------------------------------------------------------------------------------- geometry
# ADA appendix B, the first seven of its list, about the centre of the image.


def flip(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mirror left and right, or not, each with probability 1/2."""
    hit = _hit(x, p, noise) & (noise.uniform(len(x)) < 0.5)
    mirror = torch.where(hit, -1.0, 1.0)
    return _scale(mirror, torch.ones_like(mirror)), hit


def quarter_turn(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Turn by 0, 90, 180 or 270 degrees."""
    quarters = torch.where(_hit(x, p, noise), (noise.uniform(len(x)) * 4).floor(), 0)
    return _rotate(quarters * (math.pi / 2)), quarters > 0


def whole_shift(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Shift by whole pixels, up to an eighth of the image."""
    hit = _hit(x, p, noise)
    dx, dy = torch.where(hit[:, None], (noise.uniform(len(x), 2) * 2 - 1) * 0.125, 0).unbind(1)
    return _shift((dx * x.shape[3]).round(), (dy * x.shape[2]).round()), hit


def scale(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Enlarge by 2^N(0, 0.2^2)."""
    hit = _hit(x, p, noise)
    size = torch.where(hit, 2 ** (0.2 * noise.normal(len(x))), 1)
    return _scale(size, size), hit


def rotate(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Turn by any angle; ADA does it before and after `stretch`, so that either happens with probability p."""
    hit = _hit(x, 1 - (1 - p).sqrt(), noise)
    return _rotate(torch.where(hit, (noise.uniform(len(x)) * 2 - 1) * math.pi, 0)), hit


def stretch(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Stretch by 2^N(0, 0.2^2) in one direction and shrink by as much in the other."""
    hit = _hit(x, p, noise)
    aspect = torch.where(hit, 2 ** (0.2 * noise.normal(len(x))), 1)
    return _scale(aspect, 1 / aspect), hit


def rotate_after(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """`rotate`, with draws of its own."""
    return rotate(x, p, noise)


def part_shift(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Shift by N(0, 1/8) of the image."""
    hit = _hit(x, p, noise)
    dx, dy = torch.where(hit[:, None], 0.125 * noise.normal(len(x), 2), 0).unbind(1)
    return _shift(dx * x.shape[3], dy * x.shape[2]), hit


GEOMETRY: tuple[Transform, ...] = (
    flip, quarter_turn, whole_shift, scale, rotate, stretch, rotate_after, part_shift,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- colour
# ADA appendix B, over (r, g, b, 1); a grey image has no hue and no saturation.


def brightness(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Add N(0, 0.2^2)."""
    hit, matrix = _hit(x, p, noise), _identity(x)
    matrix[:, :3, 3] = torch.where(hit, 0.2 * noise.normal(len(x)), 0)[:, None]
    return matrix, hit


def contrast(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Multiply by 2^N(0, 0.5^2)."""
    hit, matrix = _hit(x, p, noise), _identity(x)
    matrix[:, :3, :3] *= torch.where(hit, 2 ** (0.5 * noise.normal(len(x))), 1)[:, None, None]
    return matrix, hit


def luma_flip(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Negate the luma and keep the colours, or not, each with probability 1/2; a grey image becomes its negative."""
    hit = _hit(x, p, noise) & (noise.uniform(len(x)) < 0.5)
    amount = hit.float()[:, None, None]
    matrix = _identity(x)
    if x.shape[1] == 1:
        matrix[:, :3, :3] *= 1 - 2 * amount
        return matrix, hit
    return matrix - 2 * _grey_axis(x) * amount, hit


def hue(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Turn about the grey axis by any angle."""
    hit, matrix = _hit(x, p, noise), _identity(x)
    angle = torch.where(hit, (noise.uniform(len(x)) * 2 - 1) * math.pi, 0)
    matrix[:, :3, :3] = axis_angle_to_rotation_matrix((angle / math.sqrt(3))[:, None].expand(len(x), 3))
    return matrix, hit


def saturation(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Multiply the distance from the grey axis by 2^N(0, 1)."""
    hit, matrix, grey = _hit(x, p, noise), _identity(x), _grey_axis(x)
    amount = torch.where(hit, 2 ** noise.normal(len(x)), 1)[:, None, None]
    matrix[:, :3, :3] = (grey + (matrix - grey) * amount)[:, :3, :3]
    return matrix, hit


GREY: tuple[Transform, ...] = (brightness, contrast, luma_flip)
COLOUR: tuple[Transform, ...] = (*GREY, hue, saturation)


# ---------------------------------------------------------------------------------------------- matrices


def _hit(x: Tensor, p: Tensor, noise: Noise) -> Tensor:
    """Which samples a transform is drawn for [B]."""
    return noise.uniform(len(x)) < p


def _identity(x: Tensor) -> Tensor:
    return torch.eye(4, device=x.device).repeat(len(x), 1, 1)


def _grey_axis(x: Tensor) -> Tensor:
    """Projection [4,4] on the grey axis (1, 1, 1) / sqrt(3)."""
    along = torch.zeros(4, 4, device=x.device)
    along[:3, :3] = 1 / 3
    return along


def _shift_by(dx: float, dy: float, like: Tensor) -> Tensor:
    one = torch.ones_like(like[:, 0, 0])
    return _shift(one * dx, one * dy)


def _scale(sx: Tensor, sy: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([sx, sy, torch.ones_like(sx)], 1))


def _rotate(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], 1).view(-1, 3, 3)


# ---------------------------------------------------------------------------------------------- controller


@dataclass
class Controller:
    """What Algorithm 2 carries from step to step: scalars on the device, the same on every worker."""

    p_aug: Tensor
    gp_ema: Tensor  # L_gp^-
    tau: Tensor

    @classmethod
    def start(cls, cfg: Augment, device: torch.device) -> "Controller":
        """p_aug = 0 and L_gp^- = tau."""
        tau = torch.tensor(0.0 if cfg.tau == "auto" else cfg.tau, device=device)
        return cls(torch.zeros_like(tau), tau.clone(), tau)

    def update(self, loss_gp: Tensor, k: int, K: int, interval: int, cfg: Augment) -> None:
        """Take L_gp of step k of K, w_gp included, the mean over all workers.

        augment.tau = auto: p_aug stays 0 for a quarter of the budget, and tau becomes tau_ratio times the mean of L_gp
        after the first tenth of it.
        """
        window = settling(K)
        if cfg.tau != "auto":
            self.tau = torch.full_like(self.tau, cfg.tau)  # a checkpoint's is another where the setting was changed
        if cfg.tau != "auto" or k >= window.stop:
            p_aug, self.gp_ema = update_p_aug(self.p_aug, self.gp_ema, self.tau, loss_gp, cfg)
            self.p_aug.copy_(p_aug)  # where it lies: a captured step reads it there
        elif k in window:
            n = (k - window.start) // interval + 1
            self.gp_ema = self.gp_ema + (loss_gp - self.gp_ema) / n
            self.tau = cfg.tau_ratio * self.gp_ema


def update_p_aug(p_aug: Tensor, gp_ema: Tensor, tau: Tensor, loss_gp: Tensor, cfg: Augment) -> tuple[Tensor, Tensor]:
    """Algorithm 2: p_aug <- clip_[0,1](p_aug + sign(Lgp_ema >= tau) p_r); Lgp_ema <- mu_p Lgp_ema + (1-mu_p) L_gp.

    The authors' code takes the average first, and p_aug grows only where it is strictly greater than tau.
    """
    average = cfg.gp_decay * gp_ema + (1 - cfg.gp_decay) * loss_gp
    above = average > tau if cfg.controller == "authors" else gp_ema >= tau
    return (p_aug + torch.where(above, cfg.p_step, -cfg.p_step)).clamp(0, 1), average
