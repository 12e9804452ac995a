"""The discriminator of `discriminator.kind` (Table 4): a module for each kind, imported only when it is asked for.

A kind is a module here of that name (and a value in DiscriminatorConfig.kind) with three functions, each of which
raises UserError for what does not fit:

    build(cfg, channels, size)         the network, for `channels` x `size` x `size` images (two beside each other where
                                       discriminator.conditional: that is 2 x channels)
    check(cfg, channels, size, world)  what shows once the images and the number of workers are known
    require_files(cfg)                 the files that build will read
"""

import importlib
from typing import Protocol, cast

from torch import nn

from act_ray.config import Config


class DiscriminatorKind(Protocol):
    """What each module of this package offers."""

    def build(self, cfg: Config, channels: int, size: int) -> nn.Module: ...

    def check(self, cfg: Config, channels: int, size: int, world: int) -> None: ...

    def require_files(self, cfg: Config) -> None: ...


def build_discriminator(cfg: Config, channels: int, size: int) -> nn.Module:
    """The discriminator of a run on `channels` x `size` x `size` images; D(x_0, x_t, t) sees both as channels."""
    return _kind(cfg).build(cfg, _channels(cfg, channels), size)


def check_discriminator(cfg: Config, channels: int, size: int, world: int) -> None:
    """Raises UserError where a run's discriminator does not fit its images or its `world` workers."""
    if cfg.adversarial:
        _kind(cfg).check(cfg, _channels(cfg, channels), size, world)


def require_discriminator_files(cfg: Config) -> None:
    """Raises UserError naming a file that a run's discriminator needs and that is not there."""
    if cfg.adversarial:
        _kind(cfg).require_files(cfg)


def _kind(cfg: Config) -> DiscriminatorKind:
    return cast(DiscriminatorKind, importlib.import_module(f"{__name__}.{cfg.discriminator.kind}"))


def _channels(cfg: Config, channels: int) -> int:
    return 2 * channels if cfg.discriminator.conditional else channels
