"""The discriminator of `discriminator.kind`, one file each (Table 4)."""

from torch import nn

from act_ray.config import Config
from act_ray.models.discriminators.ddpm import DdpmDiscriminator


def build_discriminator(cfg: Config, channels: int, size: int) -> nn.Module:
    """The discriminator of `discriminator.kind`; D(x_0, x_t, t) sees both images as channels."""
    d, classes = cfg.discriminator, cfg.model.num_classes
    seen = 2 * channels if d.conditional else channels
    if not cfg.adversarial:
        return DdpmDiscriminator(cfg, seen, size)  # a place holder: never run
    if d.kind == "stylegan2":
        from act_ray.models.discriminators.stylegan2 import StyleGan2Discriminator

        return StyleGan2Discriminator(seen, size, d.channel_base, d.channel_max, d.time_embedding, classes)
    if d.kind == "projected":
        from act_ray.models.discriminators.projected import ProjectedDiscriminator

        return ProjectedDiscriminator(
            seen, d.feature_network, d.feature_weights, d.feature_size, d.time_embedding, classes
        )
    return DdpmDiscriminator(cfg, seen, size)
