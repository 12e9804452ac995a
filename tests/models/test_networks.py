"""Published sizes, the discriminator's variants, and LPIPS with weights of our own."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_fidelity.sample_similarity_lpips import NetLinLayer

from act_ray import config, settings
from act_ray.config import LossConfig
from act_ray.errors import UserError
from act_ray.models.discriminators.ddpm import DdpmDiscriminator
from act_ray.models.perceptual import FILES, Lpips
from act_ray.models.unet import UNet


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("preset", "channels", "size", "generator", "discriminator"),
    [
        ("cifar10", 3, 32, 27_495_427, 14_086_401),
        ("cifar10_aug", 3, 32, 27_495_427, 14_086_401),
        ("digits", 1, 8, 163_985, 102_257),
    ],
)
def test_parameter_counts(preset: str, channels: int, size: int, generator: int, discriminator: int) -> None:
    cfg = settings.load(preset)
    with torch.device("meta"):
        assert count(UNet(cfg, channels, size)) == generator
        assert count(DdpmDiscriminator(cfg, channels, size)) == discriminator


def test_parameter_counts_of_imagenet() -> None:
    """The published size of D fits a head on a 2x2 grid (`pool: 2`)."""
    with torch.device("meta"):
        cfg = settings.load("imagenet64")
        assert count(UNet(cfg, 3, 64)) == 107_601_667
        assert count(UNet(settings.load("imagenet64", {"model.num_classes": None}), 3, 64)) == 107_089_667
        assert count(DdpmDiscriminator(cfg, 3, 64)) == 53_899_521


def test_parameter_counts_of_lsun() -> None:
    cfg = settings.load("lsun_cat256")
    with torch.device("meta"):
        assert round(count(UNet(cfg, 3, 256)) / 1e6, 1) == 113.7
        assert round(count(DdpmDiscriminator(cfg, 3, 256)) / 1e6, 1) == 57.0


# ---------------------------------------------------------------------------------------------- forward and backward

VARIANTS: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "ddpm-res": {"discriminator.residual": True},
    "leaky": {"discriminator.activation": "leaky_relu"},
    "leaky-res": {"discriminator.activation": "leaky_relu", "discriminator.residual": True},
    "without t": {"discriminator.time_embedding": False},
    "leaky-res without t": {
        "discriminator.activation": "leaky_relu",
        "discriminator.residual": True,
        "discriminator.time_embedding": False,
    },
    "pool": {"discriminator.pool": 2},
    "classes": {"model.num_classes": 5},
    "classes without t": {"model.num_classes": 5, "discriminator.time_embedding": False},
    "attention": {"model.down": "DA", "model.up": "AU"},
}


def small(**dotted: Any) -> config.Config:
    return settings.load("digits", {"model.block_out_channels": [8, 16], "model.norm_num_groups": 4, **dotted})


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_discriminator_variants_train_every_parameter(name: str, channels: int) -> None:
    cfg = small(**VARIANTS[name])
    torch.manual_seed(0)
    D = DdpmDiscriminator(cfg, channels, 8)
    labels = torch.arange(5) if cfg.model.num_classes else None
    x, t = torch.randn(5, channels, 8, 8, requires_grad=True), torch.tensor([-1500.0, -100.0, 0.0, 500.0, 1000.0])
    with sdpa_kernel(SDPBackend.MATH):  # the only one that can be differentiated twice
        logit = D(x, t, labels)
    assert logit.shape == (5,)
    assert logit.dtype == torch.float32
    (grad,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
    (logit.square().sum() + grad.square().sum()).backward()  # as with the penalty
    starved = [n for n, p in D.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not starved
    # keys' biases cancel in the softmax: zero gradient in exact arithmetic
    assert not [n for n, p in D.named_parameters() if not p.grad.any() and "to_k.bias" not in n]  # type: ignore[union-attr]


def test_time_and_class_reach_the_discriminator_or_not() -> None:
    x, t, other = torch.randn(2, 1, 8, 8), torch.full((2,), -500.0), torch.full((2,), 900.0)
    with_t, without = DdpmDiscriminator(small(), 1, 8), DdpmDiscriminator(small(**VARIANTS["without t"]), 1, 8)
    assert not torch.isclose(with_t(x, t), with_t(x, other)).any()
    assert torch.equal(without(x, t), without(x, other))
    both = DdpmDiscriminator(small(**VARIANTS["classes"]), 1, 8)
    assert not torch.isclose(both(x, t, torch.tensor([0, 1])), both(x, t, torch.tensor([2, 3]))).any()


def test_variants_are_what_they_say() -> None:
    leaky = DdpmDiscriminator(small(**VARIANTS["leaky"]), 1, 8)
    assert not [m for m in leaky.modules() if isinstance(m, nn.SiLU)]
    assert {m.negative_slope for m in leaky.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert not [m for m in DdpmDiscriminator(small(), 1, 8).modules() if isinstance(m, nn.LeakyReLU)]
    plain, pooled = DdpmDiscriminator(small(), 1, 8), DdpmDiscriminator(small(**VARIANTS["pool"]), 1, 8)
    assert count(pooled) - count(plain) == 3 * 16
    residual = DdpmDiscriminator(small(**VARIANTS["ddpm-res"]), 1, 8)
    assert count(residual) - count(plain) == 8 * 8 + 8 * 16


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


# ---------------------------------------------------------------------------------------------- LPIPS


@pytest.fixture(autouse=True)
def _hub() -> Iterator[None]:
    """Lpips points torch hub at its folder; put it back."""
    before = torch.hub.get_dir()
    yield
    torch.hub.set_dir(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of VGG16's shapes; the classifier, which LPIPS does not use, is one number many times."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "checkpoints").mkdir()
    widths, vgg, inputs = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512], {}, 3
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    torch.manual_seed(0)
    for place, width in zip(places, widths, strict=True):
        vgg[f"features.{place}.weight"] = torch.randn(width, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        vgg[f"features.{place}.bias"] = torch.zeros(width)
        inputs = width
    for place, (out, fan) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        vgg[f"classifier.{place}.weight"] = torch.zeros(1).expand(out, fan)
        vgg[f"classifier.{place}.bias"] = torch.zeros(out)
    lins = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate([64, 128, 256, 512, 512])}
    assert NetLinLayer(64, use_dropout=True).model[1].weight.shape == lins["lin0.model.1.weight"].shape
    torch.save(lins, folder / "checkpoints" / FILES[0])
    torch.save(vgg, folder / "checkpoints" / FILES[1])
    return folder


def test_lpips_is_a_distance(weights: Path) -> None:
    lpips = Lpips(LossConfig(lpips_weights=str(weights), lpips_size=32))
    a, b = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(lpips(a, a), torch.zeros(2))
    d = lpips(a, b)
    assert d.shape == (2,)
    assert d.dtype == torch.float32
    assert (d > 0).all()
    torch.testing.assert_close(lpips(b, a), d)
    torch.testing.assert_close(lpips(a[:1], b[:1]), d[:1])
    near = lpips(a, a + 0.05 * (b - a))
    assert (near < d).all()

    a.requires_grad_()
    lpips(a, b).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert (a.grad.flatten(1).abs().amax(1) > 0).all()
    assert not [p for p in lpips.parameters() if p.requires_grad or p.grad is not None]
    lpips.train()
    assert not any(m.training for m in lpips.net.modules())  # it holds dropout
    assert torch.equal(lpips(a, b), lpips(a, b))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Lpips(LossConfig(lpips_weights=str(tmp_path)))
    message = str(error.value)
    assert all(name in message for name in FILES)
    assert str(tmp_path) in message
    assert "\n" not in message
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / FILES[0])
    with pytest.raises(UserError) as error:
        Lpips(LossConfig(lpips_weights=str(tmp_path)))
    assert FILES[0] not in str(error.value)
    assert FILES[1] in str(error.value)


class Canary:
    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.nest),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_in_place_of_weights_never_runs(name: str, how: str, weights: Path, tmp_path: Path) -> None:
    folder, nest = tmp_path / "checkpoints", tmp_path / "canary"
    folder.mkdir()
    for other in FILES:
        (folder / other).symlink_to(weights / "checkpoints" / other)
    (folder / name).unlink()
    if how == "torch":
        torch.save({"a": torch.zeros(1), "b": Canary(nest)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Canary(nest)))
    with pytest.raises(UserError, match=name):
        Lpips(LossConfig(lpips_weights=str(tmp_path)))
    assert not nest.exists()
