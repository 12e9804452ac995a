"""A trained network and what is known of it, wherever it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from act_ray.config import Config
from act_ray.core.consistency import Consistency, Preconditioned
from act_ray.core.diffusion import Denoiser
from act_ray.core.options import Schedule
from act_ray.errors import UserError
from act_ray.runs.rows import Row

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel


class Kind(StrEnum):
    """What a network was trained to compute."""

    CONSISTENCY = "consistency"  # f(x, t): an evaluation makes an image
    DENOISER = "denoiser"  # EDM's D(x, t): its ODE makes images, and consistency models are distilled from it
    UNKNOWN = "unknown"  # one of these two, and no file says which
    OTHER = "other"  # something else: the weights can start a run, no more


@dataclass(frozen=True)
class Generator:
    """A generator's weights and what is known of them."""

    cfg: Config  # of the run; for others' files, the nearest to what they say (a denoiser: train.method = diffusion)
    shape: tuple[int, int, int]  # images [C, H, W]
    tensors: dict[str, Tensor]  # of UNet2DModel
    origin: str  # where it was read from, for people
    kind: Kind
    unusable: str | None = None  # of Kind.UNKNOWN and Kind.OTHER: why it makes no images
    clip: bool = False  # clamp its answers to [-1, 1], at every evaluation, when it makes images
    step: int | None = None
    score: float | None = None
    label_counts: list[int] | None = None  # images per class of the data, where it has labels
    data_checksum: str | None = None
    weights: str = "ema"
    name: str = ""  # of the run or file, without its folder
    measured: Sequence[Row] = ()  # the run's scores and evaluations of just these weights

    @property
    def schedule(self) -> Schedule:
        """The noise levels that it was trained on."""
        return self.cfg.step.schedule

    @property
    def makes_images(self) -> bool:
        """Whether it is known what the network computes, and from what."""
        return self.kind in (Kind.CONSISTENCY, Kind.DENOISER)

    @property
    def can_denoise(self) -> bool:
        """Whether it may be taken for a diffusion model: it is one, or nothing says what it is."""
        return self.kind in (Kind.DENOISER, Kind.UNKNOWN)

    def build(self, device: torch.device, denoiser: bool = False) -> Preconditioned:
        """f(x, t), or D(x, t) of a denoiser, ready to make images; clamped where `clip` says so.

        denoiser: D(x, t) as the teacher of a distillation, never clamped. Raises UserError for what is known to be
        another network than is asked for.
        """
        if denoiser and not self.can_denoise:
            raise UserError(
                f"{self.origin}: a denoiser (train.method = diffusion) is needed here, and this is none: {self.kind}"
            )
        if not denoiser and not self.makes_images:
            raise UserError(f"{self.origin}: {self.unusable}; such a network can only start a run (model.init)")
        from act_ray.models.unet import UNet  # diffusers takes seconds to import

        channels, size, _ = self.shape
        net = UNet(self.cfg, channels, size)
        load_unet(net.unet, self.tensors, self.origin)
        wrapper = Denoiser if denoiser or self.kind is Kind.DENOISER else Consistency
        f = wrapper(net, self.schedule, self.cfg.train.precision, clip=self.clip and not denoiser)
        return f.to(device).requires_grad_(False).eval()


def load_unet(unet: UNet2DModel, tensors: dict[str, Tensor], origin: str) -> None:
    """Put the weights into the network; raises UserError naming the first that does not fit."""
    own = unet.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        which = "has no" if name in own else "has an unknown"
        raise UserError(f"{origin}: {which} weight {name}; the networks' architectures differ (model.*)")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise UserError(
                f"{origin}: {name} is {list(tensors[name].shape)}, and {list(value.shape)} is needed; the networks' "
                "architectures differ (model.*, or the images' channels)"
            )
    unet.load_state_dict(tensors)
