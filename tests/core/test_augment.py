"""A(x, p): what each transform does, how often, and that gradients pass; and the controller of p_aug."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from act_ray.core.augment import (
    COLOUR,
    GEOMETRY,
    GREY,
    Controller,
    Transform,
    augment,
    brightness,
    compose,
    contrast,
    flip,
    hue,
    luma_flip,
    part_shift,
    quarter_turn,
    rotate,
    rotate_after,
    saturation,
    scale,
    stretch,
    update_p_aug,
    whole_shift,
)  # fmt: skip
from act_ray.core.losses import squared_gradient
from act_ray.core.noise import Noise
from act_ray.core.options import Augment

CPU = torch.device("cpu")
P = torch.tensor


def only(x: Tensor, *transforms: Transform, p: float = 1.0, step: int = 0) -> Tensor:
    """A(x, p) in which these transforms alone can happen."""
    geometry = [transform for transform in transforms if transform in GEOMETRY]
    colour = [transform for transform in transforms if transform in COLOUR]
    return augment(x, P(p), Noise(5, step, CPU), geometry or [still], colour or [nothing])


def nothing(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """No change of colour."""
    return torch.eye(4).repeat(len(x), 1, 1), torch.zeros(len(x), dtype=torch.bool)


def still(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    matrix, hit = nothing(x, p, noise)
    return matrix[:, :3, :3], hit


def matrices(x: Tensor, *transforms: Transform, p: float = 1.0) -> tuple[Tensor, Tensor]:
    return compose(transforms, x, P(p), Noise(5, 0, CPU))


def images(B: int = 64, C: int = 3, size: int = 8) -> Tensor:
    return torch.rand(B, C, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---------------------------------------------------------------------------------------------- p = 0, p = 1, ranks


@pytest.mark.parametrize("channels", [1, 3])
def test_identity_at_p_0_exactly(channels: int) -> None:
    x = images(C=channels)
    assert torch.equal(augment(x, P(0.0), Noise(0, 0, CPU)), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_changes_at_p_1(channels: int) -> None:
    x = images(C=channels)
    y = augment(x, P(1.0), Noise(0, 0, CPU))
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert ((y - x).abs().flatten(1).amax(1) > 0.01).all()


def test_samples_without_a_draw_stay_exactly_as_they_are() -> None:
    x = images(400)
    y = augment(x, P(0.05), Noise(0, 0, CPU))
    same = (y == x).flatten(1).all(1)
    expected = (1 - 0.05 / 2) * (1 - 0.05 * 3 / 4) * 0.95**5 * (1 - 0.05) * 0.95**5  # flips and turns may be by nothing
    assert same.float().mean().item() == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 400))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_see_what_one_rank_sees(channels: int, world: int) -> None:
    x = images(16, channels)
    whole = augment(x, P(0.6), Noise(1, 2, CPU))
    parts = [augment(x.chunk(world)[r], P(0.6), Noise(1, 2, CPU, r, world)) for r in range(world)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_same_draws_same_images_other_draws_other_images() -> None:
    x = images()
    first = augment(x, P(0.6), Noise(1, 2, CPU))
    assert torch.equal(augment(x, P(0.6), Noise(1, 2, CPU)), first)
    assert not torch.equal(augment(x, P(0.6), Noise(1, 3, CPU)), first)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_copied_from_the_host(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor made from a list is copied to a GPU from pageable memory, which waits for all that is queued."""
    x, p, noise = images(C=channels), P(0.6), Noise(0, 0, CPU)
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("copies from the host"))
    augment(x, p, noise)


# ---------------------------------------------------------------------------------------------- how often


def changed(matrix: Tensor) -> float:
    eye = torch.eye(matrix.shape[-1])
    return float((matrix - eye).abs().flatten(1).amax(1).gt(1e-5).float().mean())


def sigma(p: float, n: int) -> float:
    return 4 * math.sqrt(p * (1 - p) / n) + 1e-3


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("which", "share"),  # of the draws that do something: ADA draws flips and turns from a set with the identity
    [
        ((flip,), 1 / 2),
        ((quarter_turn,), 3 / 4),
        ((whole_shift,), 1),
        ((scale,), 1),
        ((rotate, rotate_after), 1),
        ((stretch,), 1),
        ((part_shift,), 1),
    ],
)
def test_geometric_transforms_happen_with_probability_p(which: tuple[Transform, ...], share: float, p: float) -> None:
    B = 20_000
    matrix, moved = matrices(torch.zeros(1).expand(B, 3, 512, 512), *which, p=p)
    assert changed(matrix) == pytest.approx(p * share, abs=sigma(p * share, B))
    assert moved.float().mean().item() == pytest.approx(p * share, abs=sigma(p * share, B))


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("which", "channels", "share"),
    [
        (brightness, 3, 1),
        (contrast, 3, 1),
        (luma_flip, 3, 1 / 2),
        (hue, 3, 1),
        (saturation, 3, 1),
        (brightness, 1, 1),
        (contrast, 1, 1),
        (luma_flip, 1, 1 / 2),
    ],
)
def test_colour_transforms_happen_with_probability_p(which: Transform, channels: int, share: float, p: float) -> None:
    B = 20_000
    matrix, _ = matrices(torch.zeros(1).expand(B, channels, 8, 8), which, p=p)
    assert changed(matrix) == pytest.approx(p * share, abs=sigma(p * share, B))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_marked_unchanged_has_no_transform(channels: int) -> None:
    x = torch.zeros(1).expand(4000, channels, 8, 8)
    for transforms in (GEOMETRY, COLOUR if channels == 3 else GREY):
        matrix, touched = matrices(x, *transforms, p=0.08)
        quiet = matrix[~touched]
        assert 0 < len(quiet) < 4000
        assert (quiet - torch.eye(matrix.shape[-1])).abs().max() < 1e-5


def test_spread_of_the_draws() -> None:
    """ADA appendix B: log2 of the scale has deviation 0.2, of contrast 0.5, of saturation 1; shifts are up to 1/8."""
    x = torch.zeros(1).expand(20_000, 3, 64, 64)
    size = matrices(x, scale)[0][:, 0, 0].log2()
    factor = matrices(x, contrast)[0][:, 0, 0].log2()
    added = matrices(x, brightness)[0][:, 0, 3]
    slide = matrices(x, part_shift)[0][:, :2, 2]
    shift = matrices(x, whole_shift)[0][:, :2, 2]
    for values, deviation in ((size, 0.2), (factor, 0.5), (added, 0.2), (slide, 0.125 * 64)):
        assert values.mean().item() == pytest.approx(0, abs=0.05 * deviation)
        assert values.std().item() == pytest.approx(deviation, rel=0.03)
    assert shift.abs().max() == 8
    assert (shift - shift.round()).abs().max() < 1e-4


# ---------------------------------------------------------------------------------------------- what each does


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() < 2e-5)


@pytest.mark.parametrize("size", [8, 9])
def test_flips_and_quarter_turns_permute_pixels(size: int) -> None:
    x = images(size=size)
    flipped = only(x, flip)
    counts = [sum(near(y, a) for y, a in zip(flipped, x, strict=True)), 0]
    counts[1] = sum(near(y, a.flip(2)) for y, a in zip(flipped, x, strict=True))
    assert sum(counts) == 64
    assert min(counts) > 20
    turned = only(x, quarter_turn)
    turns = [sum(near(y, a.rot90(k, (1, 2))) for y, a in zip(turned, x, strict=True)) for k in range(4)]
    assert sum(turns) == 64
    assert min(turns) > 6


def test_shifts_are_by_whole_pixels() -> None:
    x = images(size=16)
    matrix, _ = matrices(x, whole_shift)
    shifted = only(x, whole_shift)
    for a, b, (dx, dy) in zip(x, shifted, matrix[:, :2, 2].round().int().tolist(), strict=True):
        inner = (slice(None), slice(2, 14), slice(2, 14))  # up to 2 pixels at each side come from the reflection
        assert near(b[inner], a.roll((dy, dx), (1, 2))[inner])


def test_a_turn_about_the_centre_keeps_the_centre() -> None:
    x = images(size=9)
    y = only(x, rotate)
    assert near(y[:, :, 4, 4], x[:, :, 4, 4])


def test_stretching_keeps_the_area() -> None:
    matrix, _ = matrices(images(), flip, quarter_turn, rotate, stretch, rotate_after)
    torch.testing.assert_close(torch.linalg.det(matrix).abs(), torch.ones(64), rtol=1e-4, atol=1e-4)


def test_colours() -> None:
    x = images()
    luma, rest = x.mean(1, keepdim=True), x - x.mean(1, keepdim=True)
    added = only(x, brightness) - x
    assert near(added, added[:, :1, :1, :1].expand_as(x))
    factor = (only(x, contrast) * x).flatten(1).sum(1) / (x * x).flatten(1).sum(1)
    assert near(only(x, contrast), factor[:, None, None, None] * x)
    assert (factor > 0).all()
    flipped = only(x, luma_flip)
    assert all(near(y, a) or near(y, a - 2 * m) for y, a, m in zip(flipped, x, luma, strict=True))
    turned = only(x, hue)
    assert near(turned.mean(1, keepdim=True), luma)
    assert near(turned.square().sum(1), x.square().sum(1))
    saturated = only(x, saturation)
    assert near(saturated.mean(1, keepdim=True), luma)
    amount = ((saturated - luma) * rest).flatten(1).sum(1) / rest.square().flatten(1).sum(1)
    torch.testing.assert_close(saturated, luma + amount[:, None, None, None] * rest, rtol=1e-4, atol=1e-4)
    assert amount.log2().std().item() == pytest.approx(1, abs=0.35)


def test_grey_images_and_grey_colours_agree() -> None:
    """A grey image of three channels keeps them equal; of one channel it becomes the same grey."""
    grey = images(C=1)
    for which in GREY:
        one, three = only(grey, which), only(grey.expand(-1, 3, -1, -1), which)
        assert near(three, one.expand_as(three))
    assert torch.equal(augment(grey, P(1.0), Noise(0, 0, CPU)), augment(grey, P(1.0), Noise(0, 0, CPU), GEOMETRY, GREY))


def test_a_new_transform_shifts_no_other_draws() -> None:
    x, noise = images(), Noise(0, 0, CPU)
    noise.branch("new").normal(7, 7)

    def idle(x: Tensor, p: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        noise.uniform(len(x), 3)
        return still(x, p, noise)

    before = augment(x, P(0.6), Noise(0, 0, CPU))
    after = augment(x, P(0.6), noise, (idle, *GEOMETRY), COLOUR)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.fixture
def _double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_pass_once_and_twice(channels: int) -> None:
    """The generator learns through A(x), and R1 may be taken through it."""
    x = (torch.rand(6, channels, 4, 4) * 2 - 1).requires_grad_()

    def sees(x: Tensor) -> Tensor:
        return augment(x, P(0.7), Noise(0, 0, CPU)).tanh()

    assert torch.autograd.gradcheck(sees, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(sees, x, fast_mode=True)


@pytest.mark.usefixtures("_double")
def test_r1_through_the_augmentation_trains_d() -> None:
    x, conv = images(8).double().requires_grad_(), torch.nn.Conv2d(3, 1, 8)

    def penalty(differentiable: bool) -> Tensor:
        logit = torch.tanh(conv(augment(x, P(0.7), Noise(0, 0, CPU)))).flatten()
        return squared_gradient(logit, x, differentiable).sum()

    penalty(True).backward()
    assert conv.weight.grad is not None
    h, direction, values = 1e-5, torch.randn_like(conv.weight), []
    for step in (h, -h):
        with torch.no_grad():
            conv.weight += step * direction
        values.append(penalty(False).item())
        with torch.no_grad():
            conv.weight -= step * direction
    slope = (values[0] - values[1]) / (2 * h)
    assert (conv.weight.grad * direction).sum().item() == pytest.approx(slope, rel=1e-6)


# ---------------------------------------------------------------------------------------------- controller


def follow(losses: list[float], cfg: Augment, p: float = 0.0) -> list[tuple[float, float]]:
    p_aug, ema, path = P(p), P(cfg.tau), []
    for loss in losses:
        p_aug, ema = update_p_aug(p_aug, ema, P(cfg.tau), P(loss), cfg)
        path.append((p_aug.item(), ema.item()))
    return path


def test_the_authors_controller_by_hand() -> None:
    """The average comes first, and p grows only where it is strictly greater than tau."""
    cfg = Augment(tau=0.5, p_step=0.25, gp_decay=0.5, controller="authors")
    path = follow([0.5, 1.5, 0.0, 0.5], cfg)
    assert path == [(0.0, 0.5), (0.25, 1.0), (0.0, 0.5), (0.0, 0.5)]


def test_a_threshold_of_its_own_is_what_l_gp_settles_at() -> None:
    """K = 40, I_gp = 2: L_gp of steps 4, 6 and 8 is averaged, and p_aug moves from step 10 on."""
    cfg = Augment(tau="auto", tau_ratio=1.5, p_step=0.25, gp_decay=0.5)
    controller, path = Controller.start(cfg, CPU), []
    for k, loss in zip(range(0, 18, 2), [9.0, 9.0, 0.2, 0.3, 0.4, 0.8, 0.8, 0.0, 0.0], strict=True):
        controller.update(P(loss), k, 40, 2, cfg)
        path.append((controller.p_aug.item(), controller.gp_ema.item()))
    assert controller.tau.item() == pytest.approx(1.5 * 0.3)
    assert [p for p, _ in path] == [0, 0, 0, 0, 0, 0, 0.25, 0.5, 0.25]  # 0.3, 0.55, 0.675, 0.3375 against 0.45
    assert [ema for _, ema in path[4:]] == pytest.approx([0.3, 0.55, 0.675, 0.3375, 0.16875])


def test_controller_by_hand() -> None:
    """tau .5, p_r .25, mu_p .5. The EMA starts at tau, and >= counts as over it; p moves before the EMA does."""
    cfg = Augment(tau=0.5, p_step=0.25, gp_decay=0.5)
    path = follow([0.5, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0], cfg)
    expected = [
        (0.25, 0.5),
        (0.5, 0.25),
        (0.25, 0.125),
        (0.0, 1.5625),
        (0.25, 0.78125),
        (0.5, 0.390625),
        (0.25, 0.1953125),
    ]
    assert path == expected  # all of these are exact in binary


def test_controller_clips() -> None:
    cfg = Augment(tau=0.5, p_step=0.4, gp_decay=0.5)
    assert [p for p, _ in follow([9.0] * 4, cfg)] == pytest.approx([0.4, 0.8, 1.0, 1.0])
    assert [p for p, _ in follow([0.0] * 4, cfg, p=0.3)] == pytest.approx([0.7, 0.3, 0.0, 0.0], abs=1e-6)


def test_controller_with_the_papers_settings() -> None:
    cfg: Any = Augment()
    assert (cfg.tau, cfg.p_step, cfg.gp_decay) == (0.55, 0.05, 0.93)
    path = follow([0.6, 0.4], cfg)
    assert path[0] == pytest.approx((0.05, 0.93 * 0.55 + 0.07 * 0.6))
    assert path[1] == pytest.approx((0.1, 0.93 * (0.93 * 0.55 + 0.07 * 0.6) + 0.07 * 0.4))
