"""A trained network and what is known of it, wherever it came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DModel
from torch import Tensor

from act_ray.config import Config
from act_ray.core.consistency import Consistency, Preconditioned
from act_ray.core.diffusion import Denoiser
from act_ray.core.options import Schedule
from act_ray.errors import UserError
from act_ray.models.unet import UNet
from act_ray.runs.folder import Row


@dataclass(frozen=True)
class Generator:
    """A generator's weights and what is known of them."""

    cfg: Config  # of the run; for a foreign model, the nearest to what it says
    shape: tuple[int, int, int]  # images [C, H, W]
    tensors: dict[str, Tensor]  # of UNet2DModel
    source: str  # where from, for people
    step: int | None = None
    score: float | None = None
    label_counts: list[int] | None = None  # images per class of the data, where it has labels
    data_checksum: str | None = None
    weights: str = "ema"
    name: str = ""  # of the run or file, without its folder
    measured: Sequence[Row] = ()  # the run's scores and evaluations of just these weights
    foreign: str | None = None  # why it does not make images by itself, of a network for something else
    denoises: bool = False  # whether a foreign network may be a diffusion model's

    @property
    def schedule(self) -> Schedule:
        """The noise levels that it was trained on."""
        return self.cfg.step.schedule

    def build(self, device: torch.device, denoiser: bool | None = None) -> Preconditioned:
        """f(x, t), or D(x, t) of a diffusion run, ready for evaluation; denoiser: take it for one or the other.

        Raises UserError where it is known to be the other, or, without `denoiser`, where nothing says what it is.
        """
        trained = self.cfg.train.method == "diffusion"
        if self.foreign is not None and denoiser is None:
            raise UserError(f"{self.source}: {self.foreign}; such a network can only start a run (model.init)")
        if denoiser not in (None, trained) and not (denoiser and self.denoises):
            needed = "a denoiser (train.method = diffusion)" if denoiser else "a one-step model (train.method = act)"
            raise UserError(f"{self.source}: {needed} is needed here, and this is the other kind")
        channels, size, _ = self.shape
        net = UNet(self.cfg, channels, size)
        load_unet(net.unet, self.tensors, self.source)
        wrapper = Denoiser if trained or denoiser else Consistency
        return wrapper(net, self.schedule, self.cfg.train.precision).to(device).requires_grad_(False).eval()


def load_unet(unet: UNet2DModel, tensors: dict[str, Tensor], source: str) -> None:
    """Put the weights into the network; raises UserError naming the first that does not fit."""
    own = unet.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        which = "has no" if name in own else "has an unknown"
        raise UserError(f"{source}: {which} weight {name}; the networks' architectures differ (model.*)")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise UserError(
                f"{source}: {name} is {list(tensors[name].shape)}, and {list(value.shape)} is needed; the networks' "
                "architectures differ (model.*, or the images' channels)"
            )
    unet.load_state_dict(tensors)
