"""The generator: published sizes, and gradients for every parameter."""

import pytest
import torch

from act_ray import settings
from act_ray.models.discriminators.ddpm import DdpmDiscriminator
from act_ray.models.unet import UNet
from tests.helpers.small_networks import count, small


@pytest.mark.parametrize(
    ("preset", "recipe", "channels", "size", "generator", "discriminator"),
    [
        ("cifar10", "paper", 3, 32, 27_495_427, 14_087_681),
        ("cifar10_aug", "paper", 3, 32, 27_495_427, 14_087_681),
        ("cifar10", "authors", 3, 32, 27_495_427, 17_975_809),
        ("digits", None, 1, 8, 163_985, 102_257 + 3 * 32 + 2 * 32),
    ],
)
def test_parameter_counts(
    preset: str, recipe: str | None, channels: int, size: int, generator: int, discriminator: int
) -> None:
    cfg = settings.load(preset, recipe_name=recipe)
    with torch.device("meta"):
        assert count(UNet(cfg, channels, size)) == generator
        assert count(DdpmDiscriminator(cfg, channels, size)) == discriminator


def test_released_and_published_discriminators_of_cifar10() -> None:
    """As released 17,976,834 with 1,025 in a second head that nothing uses; as published 14.1M, whatever the end."""
    with torch.device("meta"):
        released = DdpmDiscriminator(settings.load("cifar10", recipe_name="authors"), 3, 32)
        assert count(released) + (4 * 256 + 1) == 17_976_834
        for end, number in {("plain", 1): 14_086_401, ("act", 2): 14_087_169}.items():
            cfg = settings.load("cifar10", {"discriminator.head": end[0], "discriminator.pool": end[1]})
            assert count(DdpmDiscriminator(cfg, 3, 32)) == number


def test_parameter_counts_of_imagenet() -> None:
    """As released 53,901,570, of which 2,049 are in a second head that nothing uses."""
    with torch.device("meta"):
        cfg = settings.load("imagenet64")
        assert count(UNet(cfg, 3, 64)) == 107_601_667
        assert count(UNet(settings.load("imagenet64", {"model.num_classes": None}), 3, 64)) == 107_089_667
        assert count(DdpmDiscriminator(cfg, 3, 64)) == 53_899_521


def test_parameter_counts_of_lsun() -> None:
    cfg = settings.load("lsun_cat256")
    with torch.device("meta"):
        assert round(count(UNet(cfg, 3, 256)) / 1e6, 1) == 113.7
        assert count(DdpmDiscriminator(cfg, 3, 256)) + 2_049 == 56_985_090  # as released, with an unused head
        unet = UNet(cfg, 3, 256).unet
    assert (unet.time_proj.flip_sin_to_cos, unet.time_proj.downscale_freq_shift) == (False, 1)


@pytest.mark.parametrize("classes", [None, 5])
def test_generator_trains_every_parameter(classes: int | None) -> None:
    net = UNet(small(**{"model.num_classes": classes}), 3, 8)
    labels = torch.arange(5) if classes else None
    out = net(torch.randn(5, 3, 8, 8), torch.linspace(-1500, 1000, 5), labels)
    assert out.shape == (5, 3, 8, 8)
    out.square().sum().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_samples_do_not_see_each_other() -> None:
    """No batch statistics: a worker's share of a batch gives what the whole batch gives."""
    cfg, x, t = small(), torch.randn(4, 1, 8, 8), torch.linspace(-1500, 1000, 4)
    for net in (UNet(cfg, 1, 8), DdpmDiscriminator(cfg, 1, 8)):
        torch.testing.assert_close(torch.cat([net(x[:2], t[:2]), net(x[2:], t[2:])]), net(x, t), rtol=1e-4, atol=1e-5)
