"""The generator's network F: diffusers' UNet2DModel."""

import inspect
from typing import Any

from torch import Tensor, nn

from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.models.diffusers_parts import UNet2DModel

BLOCKS = {"D": "DownBlock2D", "A": "AttnDownBlock2D"}
UP_BLOCKS = {"U": "UpBlock2D", "A": "AttnUpBlock2D"}
ARGUMENTS = tuple(inspect.signature(UNet2DModel.__init__).parameters)[1:]


FIXED = {"sample_size", "in_channels", "out_channels", "dropout"}  # these follow the images and the run


def unet_arguments(cfg: Config, channels: int, size: int) -> dict[str, Any]:
    """UNet2DModel's arguments for `channels` x `size` x `size` images.

    Raises UserError for one in `model.unet` that UNet2DModel does not have, or that is not free.
    """
    for name in cfg.model.unet or {}:
        if name not in ARGUMENTS:
            raise UserError(f"model.unet.{name}: no such argument of UNet2DModel; {nearest(name, ARGUMENTS)}")
        if name in FIXED:
            raise UserError(f"model.unet.{name}: follows the images and the run; leave it out")
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": cfg.model.block_out_channels,
        "down_block_types": tuple(BLOCKS[letter] for letter in cfg.model.down),
        "up_block_types": tuple(UP_BLOCKS[letter] for letter in cfg.model.up),
        "layers_per_block": cfg.model.layers_per_block,
        "attention_head_dim": cfg.model.attention_head_dim,
        "norm_num_groups": cfg.model.norm_num_groups,
        "dropout": cfg.model.dropout,
        "num_class_embeds": cfg.model.num_classes,
        **(cfg.model.unet or {}),
    }


def build_unet(arguments: dict[str, Any]) -> UNet2DModel:
    """The network. Raises UserError for arguments, of `model.unet`, that do not make one."""
    try:
        return UNet2DModel(**arguments)
    except Exception as error:  # diffusers checks little: it fails wherever a wrong value is first used
        raise UserError(f"model.unet: {type(error).__name__}: {error}") from None


class UNet(nn.Module):
    """F(x, t', labels) [B,C,H,W] -> [B,C,H,W]; `unet` is what diffusers loads and saves."""

    def __init__(self, cfg: Config, channels: int, size: int) -> None:
        super().__init__()
        self.unet = build_unet(unet_arguments(cfg, channels, size))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        out: Tensor = self.unet(x, t, class_labels=labels, return_dict=False)[0]
        return out
