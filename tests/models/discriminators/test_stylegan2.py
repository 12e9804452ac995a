"""StyleGAN2's discriminator: sizes, scales, blur, and the deviation within a group."""

import math

import pytest
import torch
from torch import nn

from act_ray.errors import UserError
from act_ray.models.discriminators.stylegan2 import (
    Blur,
    Conditioning,
    EqualConv2d,
    EqualLinear,
    StyleGan2Discriminator,
    group_size,
    leaky,
    project,
    with_deviation,
)
from tests.helpers.small_networks import T, count, images, stylegan2


@pytest.mark.parametrize(("size", "parameters"), [(256, 28_864_129), (32, 21_507_073)])
def test_stylegan2_has_the_size_of_the_original(size: int, parameters: int) -> None:
    """The layers of StyleGAN2-ADA's own log for its default widths, 32768 / side and at most 512, added up."""
    with torch.device("meta"):
        assert count(StyleGan2Discriminator(3, size, 32768, 512, False, None, 4)) == parameters


@pytest.mark.parametrize(("size", "nearest"), [(4, 8), (48, 32), (28, 32), (512, 256)])
def test_stylegan2_refuses_other_sizes(size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"{size}x{size} images.*power of two from 8 to 256; nearest: {nearest}$"):
        stylegan2(size=size)


def test_equalised_learning_rate() -> None:
    """Stored weights are N(0, 1); what they do has the variance of its input, also through LeakyReLU."""
    conv, dense = EqualConv2d(64, 64, 3, 1.0), EqualLinear(512, 512)
    for layer, x in ((conv, torch.randn(8, 64, 10, 10)), (dense, torch.randn(64, 512))):
        assert layer.weight.std().item() == pytest.approx(1, rel=0.02)
        assert not layer.bias.any()  # type: ignore[union-attr]
        assert layer(x).std().item() == pytest.approx(1, rel=0.05)
    gained = EqualConv2d(64, 64, 3, math.sqrt(2))
    nn.init.normal_(gained.bias)  # type: ignore[arg-type]
    x = torch.randn(8, 64, 10, 10)
    plain = nn.functional.conv2d(x, gained.weight / math.sqrt(64 * 9), gained.bias)
    torch.testing.assert_close(leaky(gained(x)), math.sqrt(2) * nn.functional.leaky_relu(plain, 0.2))


def test_embeddings_and_their_projection_have_unit_scale() -> None:
    rows = Conditioning(64, True, 5)(T, torch.arange(3))
    assert torch.allclose(rows.square().mean(1), torch.ones(3), atol=0.5)  # t and the class, almost orthogonal
    assert torch.allclose(Conditioning(64, True, None)(T, None).square().mean(1), torch.ones(3), atol=1e-4)
    assert project(torch.ones(2, 16), torch.ones(2, 16)).tolist() == [4, 4]


def test_blur_keeps_a_constant_and_removes_a_checkerboard() -> None:
    blur = Blur()
    flat = torch.full((1, 3, 8, 8), 0.7)
    out = blur(flat, padding=1, stride=2)
    assert out.shape == (1, 3, 4, 4)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], flat[..., :2, :2])  # zeros come in from the border
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert blur(checkers[None, None], padding=0).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("batch", "size"), [(1, 1), (2, 1), (3, 3), (4, 2), (5, 1), (6, 3), (8, 4), (10, 1), (12, 3), (16, 4), (20, 2)]
)
def test_deviation_is_of_neighbours(batch: int, size: int) -> None:
    assert group_size(batch) == size
    x = torch.randn(batch, 5, 4, 4)
    out = with_deviation(x, size)
    assert torch.equal(out[:, :5], x)
    for i in range(0, batch, size):
        expected = x[i : i + size].std(0, correction=0).mean()
        torch.testing.assert_close(out[i : i + size, 5], expected.expand(size, 4, 4), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [8, 12, 16, 24])
def test_fakes_and_reals_apart_or_in_parts_have_the_logits_of_the_whole(batch: int) -> None:
    """The groups are those of train.global_batch, whatever a forward pass is given."""
    D, x, t = stylegan2().double(), images(batch).double(), torch.zeros(batch).double()
    D.group = group_size(batch)
    together = D(x, t)
    for part in (batch // 2, D.group):
        apart = torch.cat([D(piece, t[:part]) for piece in x.split(part)])
        torch.testing.assert_close(apart, together, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("half", [1, 3, 4, 5, 8])
def test_fakes_and_reals_share_no_group(half: int) -> None:
    """cat([fakes, reals]) gives the fakes the logits that they have beside other reals."""
    D, fakes, t = stylegan2().double(), images(half).double(), torch.zeros(2 * half).double()
    one, other = (D(torch.cat([fakes, images(half)]), t)[:half] for _ in range(2))
    torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    if group_size(2 * half) > 1:  # whereas a fake in the same group matters
        changed = torch.cat([fakes[:1], images(2 * half - 1)])
        assert abs(D(changed, t)[0] - one[0]) > 1e-9
