"""Generators and discriminators at their smallest, and inputs for them."""

from typing import Any

import torch
from torch import Tensor, nn

from act_ray import settings
from act_ray.config import Config
from act_ray.models.discriminators.projected import ProjectedDiscriminator
from act_ray.models.discriminators.stylegan2 import StyleGan2Discriminator

NETWORK = "tf_efficientnet_lite0"
T = torch.tensor([-1500.0, -700.0, 900.0])


def small(**dotted: Any) -> Config:
    """Settings of two levels of 8 and 16 channels."""
    return settings.load("digits", {"model.block_out_channels": [8, 16], "model.norm_num_groups": 4, **dotted})


def stylegan2(channels: int = 1, size: int = 8, t: bool = False, classes: int | None = None) -> StyleGan2Discriminator:
    """At most 16 channels."""
    return StyleGan2Discriminator(channels, size, 64, 16, t, classes, 4)


def projected(channels: int = 1, size: int = 64, t: bool = False, classes: int | None = None) -> ProjectedDiscriminator:
    """On untrained features."""
    return ProjectedDiscriminator(channels, NETWORK, "random", size, t, classes)


def count(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def images(batch: int, channels: int = 1, size: int = 8) -> Tensor:
    """Uniform in [-1, 1], [batch,channels,size,size]."""
    return torch.rand(batch, channels, size, size) * 2 - 1
