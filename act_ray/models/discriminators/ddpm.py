"""DDPM's discriminator (Table 4): the generator's down path and mid block under a pooled linear head (section 5).

The head, as in the authors' code: [GroupNorm on CIFAR-10,] SiLU, average pool to 2x2, linear to one logit.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.models.diffusers_parts import ResnetBlock2D
from act_ray.models.unet import build_unet, unet_arguments


def build(cfg: Config, channels: int, size: int) -> nn.Module:
    """The network for `channels` x `size` x `size` images."""
    return DdpmDiscriminator(cfg, channels, size)


def check(cfg: Config, channels: int, size: int, world: int) -> None:
    """It fits wherever the generator fits, unless it has channels of its own."""
    widths, levels, groups = cfg.discriminator.block_out_channels, len(cfg.model.block_out_channels), _groups(cfg)
    if widths is None:
        return
    where = f"discriminator.block_out_channels = {list(widths)}"
    if len(widths) != levels:
        raise UserError(f"{where}: needs {levels} widths, as model.block_out_channels; null takes the generator's")
    if wrong := next((width for width in widths if width % groups), None):
        near = max(groups, round(wrong / groups) * groups)
        raise UserError(f"{where}: {wrong} is no multiple of the {groups} groups of the norms; nearest: {near}")


def _groups(cfg: Config) -> int:
    return int((cfg.model.unet or {}).get("norm_num_groups", cfg.model.norm_num_groups))


def require_files(cfg: Config) -> None:
    """It needs none."""


class DdpmDiscriminator(nn.Module):
    """Logit of D(x, t'); [B,C,H,W], [B] -> [B]. Table 4's variants by `discriminator.*`:

    DDPM: as it is; DDPM-res: residual; LeakyReLU: activation; without t: time_embedding off.
    """

    def __init__(self, cfg: Config, channels: int, size: int) -> None:
        super().__init__()
        d = cfg.discriminator
        arguments = unet_arguments(cfg, channels, size) | {"layers_per_block": d.layers_per_block}
        widths = d.block_out_channels or tuple(arguments["block_out_channels"])
        arguments["block_out_channels"] = widths
        if not d.time_embedding and cfg.model.num_classes is None:
            arguments["resnet_time_scale_shift"] = "default"  # nothing to scale and shift by
        unet = build_unet(arguments)
        self.conv_in, self.down_blocks, self.mid_block = unet.conv_in, unet.down_blocks, unet.mid_block
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding if d.time_embedding else None
        self.class_embedding = unet.class_embedding
        if self.time_embedding is None and self.class_embedding is None:
            _drop_embedding_inputs(self)
        self.skips = (
            nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip((widths[0], *widths), widths, strict=False))
            if d.residual
            else None
        )
        norm = nn.GroupNorm(arguments["norm_num_groups"], widths[-1]) if d.head == "norm_act" else nn.Identity()
        self.before_pool = nn.Sequential(norm, nn.Identity() if d.head == "plain" else nn.SiLU())
        self.pool = d.pool
        self.head = nn.Linear(widths[-1] * d.pool**2, 1)
        if d.activation == "leaky_relu":
            _replace_silu(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self._embedding(x, t, labels)
        h = self.conv_in(x)
        for i, block in enumerate(self.down_blocks):
            out, _ = block(hidden_states=h, temb=embedding)
            if self.skips is not None:
                shortcut = self.skips[i](F.adaptive_avg_pool2d(h, out.shape[-2:]))
                out = (out + shortcut) / math.sqrt(2)
            h = out
        if self.mid_block is not None:
            h = self.mid_block(h, embedding)
        h = F.adaptive_avg_pool2d(self.before_pool(h), self.pool).flatten(1)
        logit: Tensor = self.head(h).squeeze(1).float()
        return logit

    def _embedding(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor | None:
        embedding: Tensor | None = None
        if self.time_embedding is not None:
            embedding = self.time_embedding(self.time_proj(t).to(x.dtype))
        if self.class_embedding is not None:
            label = self.class_embedding(labels)
            embedding = label if embedding is None else embedding + label
        return embedding


def _drop_embedding_inputs(module: nn.Module) -> None:
    """With neither t nor a class to embed, the residual blocks' projections of the embedding would be dead weights."""
    for block in module.modules():
        if isinstance(block, ResnetBlock2D):
            block.time_emb_proj = None


def _replace_silu(module: nn.Module) -> None:
    """diffusers' blocks do not know LeakyReLU by name, so their SiLU modules are exchanged."""
    for name, child in module.named_children():
        if isinstance(child, nn.SiLU):
            setattr(module, name, nn.LeakyReLU(0.2))
        else:
            _replace_silu(child)
