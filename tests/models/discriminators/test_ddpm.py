"""The generator's down path as a discriminator, in its variants."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from act_ray.models.discriminators.ddpm import DdpmDiscriminator
from tests.helpers.small_networks import count, small

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
    "pooled to one": {"discriminator.pool": 1},
    "without a norm": {"discriminator.head": "act"},
    "plain": {"discriminator.head": "plain", "discriminator.pool": 1},
    "widths": {"discriminator.block_out_channels": [8, 24]},
    "classes": {"model.num_classes": 5},
    "classes without t": {"model.num_classes": 5, "discriminator.time_embedding": False},
    "attention": {"model.down": "DA", "model.up": "AU"},
}


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
    usual, one = DdpmDiscriminator(small(), 1, 8), DdpmDiscriminator(small(**VARIANTS["pooled to one"]), 1, 8)
    assert count(usual) - count(one) == 3 * 16
    residual = DdpmDiscriminator(small(**VARIANTS["ddpm-res"]), 1, 8)
    assert count(residual) - count(usual) == 8 * 8 + 8 * 16
    wide = DdpmDiscriminator(small(**VARIANTS["widths"]), 1, 8)
    assert [block.resnets[0].conv2.out_channels for block in wide.down_blocks] == [8, 24]


@pytest.mark.parametrize("name", ["ddpm", "without a norm", "plain", "leaky"])
def test_the_end_is_that_of_the_authors_or_a_variant(name: str) -> None:
    """[GroupNorm,] SiLU, average over a 2x2 grid, one linear layer (a LeakyReLU where all are)."""
    D = DdpmDiscriminator(small(**VARIANTS[name]), 1, 8)
    inner: list[Tensor] = []
    assert D.mid_block is not None
    D.mid_block.register_forward_hook(lambda _, __, out: inner.append(out))
    for norm in (m for m in D.before_pool if isinstance(m, nn.GroupNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    logit = D(torch.randn(3, 1, 8, 8), torch.zeros(3))
    (h,) = inner
    if name in ("ddpm", "leaky"):
        groups = h.reshape(3, 4, -1)
        h = (
            (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
        ).view_as(h)
        h = h * D.before_pool[0].weight.view(1, -1, 1, 1) + D.before_pool[0].bias.view(1, -1, 1, 1)
    if name != "plain":
        h = torch.where(h > 0, h, 0.2 * h) if name == "leaky" else h * torch.sigmoid(h)
    side = 1 if name == "plain" else 2
    h = h.reshape(3, 16, side, 4 // side, side, 4 // side).mean((3, 5)).flatten(1)
    torch.testing.assert_close(logit, (h * D.head.weight).sum(1) + D.head.bias)
