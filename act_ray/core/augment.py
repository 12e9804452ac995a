"""A(x, p): StyleGAN2-ADA's blit, geometric and colour augmentations, differentiable; and the controller of p_aug.

Each transform is applied to each sample with the one probability p. Drawing parameters per sample, composing them into
one matrix and warping once costs a tenth of a chain of augmentation modules; kornia has the warp and the rotation of
hue. No constant is built from a list: on a GPU its copy from the host would wait for all that is queued.
"""

import math

import torch
from kornia.geometry import axis_angle_to_rotation_matrix, warp_affine
from torch import Tensor

from act_ray.core.noise import Noise
from act_ray.core.options import Augment


def augment(x: Tensor, p: Tensor, noise: Noise) -> Tensor:
    """A(x, p_aug); x [B,C,H,W] in [-1, 1], p a scalar tensor in [0, 1]. Exactly x where no transform was drawn."""
    matrix, moved = _geometry(x, p, noise)
    warped = warp_affine(x, matrix[:, :2], x.shape[-2:], padding_mode="reflection", align_corners=True)
    x = torch.where(moved.view(-1, 1, 1, 1), warped, x)
    matrix, tinted = _colour(x, p, noise)
    C = x.shape[1]
    painted = torch.einsum("bij,bjhw->bihw", matrix[:, :C, :C], x) + matrix[:, :C, 3].view(-1, C, 1, 1)
    return torch.where(tinted.view(-1, 1, 1, 1), painted, x)


# ---------------------------------------------------------------------------------------------- matrices


def _geometry(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Pixel-space affine matrices [B,3,3] and which samples they move [B]: ADA appendix B, the first seven of its list.

    ADA draws the arbitrary rotation twice, each with 1 - sqrt(1-p), so that either happens with probability p.
    """
    B, _, H, W = x.shape
    u, g, hit = noise.uniform(B, 6), noise.normal(B, 4), noise.uniform(B, 8)
    turn = 1 - (1 - p).sqrt()
    flip, turn90, shift = hit[:, 0] < p, hit[:, 1] < p, hit[:, 2] < p
    scale, spin, stretch = hit[:, 3] < p, hit[:, 4] < turn, hit[:, 5] < p
    spin_after, slide = hit[:, 6] < turn, hit[:, 7] < p

    flip = flip & (u[:, 0] < 0.5)
    quarter = torch.where(turn90, (u[:, 1] * 4).floor(), 0)
    whole_x, whole_y = torch.where(shift[:, None], (u[:, 2:4] * 2 - 1) * 0.125, 0).unbind(1)
    size = torch.where(scale, 2 ** (0.2 * g[:, 0]), 1)
    angle = torch.where(spin, (u[:, 4] * 2 - 1) * math.pi, 0)
    aspect = torch.where(stretch, 2 ** (0.2 * g[:, 1]), 1)
    angle_after = torch.where(spin_after, (u[:, 5] * 2 - 1) * math.pi, 0)
    part_x, part_y = torch.where(slide[:, None], 0.125 * g[:, 2:4], 0).unbind(1)

    mirror = torch.where(flip, -1.0, 1.0)
    one = torch.ones_like(mirror)
    matrix = _scale(mirror, one)
    for factor in (
        _rotate(quarter * (math.pi / 2)),
        _shift((whole_x * W).round(), (whole_y * H).round()),
        _scale(size, size),
        _rotate(angle),
        _scale(aspect, 1 / aspect),
        _rotate(angle_after),
        _shift(part_x * W, part_y * H),
    ):
        matrix = factor @ matrix
    centre = one * ((W - 1) / 2), one * ((H - 1) / 2)
    moved = flip | (quarter > 0) | shift | scale | spin | stretch | spin_after | slide
    return _shift(*centre) @ matrix @ _shift(-centre[0], -centre[1]), moved


def _colour(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Colour matrices [B,4,4] over (r, g, b, 1) and which samples they change [B]: ADA appendix B, colour part.

    A grey image keeps brightness, contrast and luma flip: hue and saturation do not exist for it.
    """
    B, C = x.shape[:2]
    u, g, hit = noise.uniform(B, 2), noise.normal(B, 3), noise.uniform(B, 5) < p
    eye = torch.eye(4, device=x.device).expand(B, 4, 4)
    along = torch.zeros(4, 4, device=x.device)  # projection on the grey axis (1, 1, 1) / sqrt(3)
    along[:3, :3] = 1 / 3

    brightness = eye.clone()
    brightness[:, :3, 3] = torch.where(hit[:, 0], 0.2 * g[:, 0], 0)[:, None]
    contrast = eye.clone()
    contrast[:, :3, :3] *= torch.where(hit[:, 1], 2 ** (0.5 * g[:, 1]), 1)[:, None, None]
    inverted = (hit[:, 2] & (u[:, 0] < 0.5)).float()[:, None, None]
    if C == 1:
        flip = eye.clone()
        flip[:, :3, :3] *= 1 - 2 * inverted
        return flip @ contrast @ brightness, hit[:, :3].any(1)
    luma = eye - 2 * along * inverted
    hue = eye.clone()
    turn = torch.where(hit[:, 3], (u[:, 1] * 2 - 1) * math.pi, 0)
    hue[:, :3, :3] = axis_angle_to_rotation_matrix((turn / math.sqrt(3))[:, None].expand(B, 3))
    saturation = eye.clone()
    amount = torch.where(hit[:, 4], 2 ** g[:, 2], 1)[:, None, None]
    saturation[:, :3, :3] = (along + (eye - along) * amount)[:, :3, :3]
    return saturation @ hue @ luma @ contrast @ brightness, hit.any(1)


def _scale(sx: Tensor, sy: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([sx, sy, torch.ones_like(sx)], 1))


def _rotate(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], 1).view(-1, 3, 3)


# ---------------------------------------------------------------------------------------------- controller


def update_p_aug(p_aug: Tensor, gp_ema: Tensor, loss_gp: Tensor, cfg: Augment) -> tuple[Tensor, Tensor]:
    """Algorithm 2: p_aug <- clip_[0,1](p_aug + sign(Lgp_ema >= tau) p_r); Lgp_ema <- mu_p Lgp_ema + (1-mu_p) L_gp.

    All scalars on the device. L_gp includes w_gp and is the mean over all workers, so every worker keeps the same p.
    """
    p_aug = (p_aug + torch.where(gp_ema >= cfg.tau, cfg.p_step, -cfg.p_step)).clamp(0, 1)
    return p_aug, cfg.gp_decay * gp_ema + (1 - cfg.gp_decay) * loss_gp
