"""CM Algorithm 4 and the tasks built on it: what is given stays in the stored image, the rest is made up from noise."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from act_ray import settings
from act_ray.core import editing
from act_ray.core.consistency import Consistency, one_step
from act_ray.core.noise import Noise
from act_ray.core.options import Schedule
from act_ray.models.unet import UNet
from act_ray.pictures import to_uint8

CFG = Schedule()
LEVELS = editing.editing_levels(4, CFG)


def network(channels: int, loud: float = 30.0) -> Consistency:
    """An untrained f whose answers reach far outside of [-1, 1]."""
    torch.manual_seed(0)
    cfg = settings.load("digits", {"model.block_out_channels": [8, 16]})
    net = UNet(cfg, channels, 8)
    with torch.no_grad():
        net.unet.conv_out.weight *= loud
    return Consistency(net, CFG).requires_grad_(False).eval()


def pixels(channels: int, n: int = 3) -> Tensor:
    """Random bytes, black and white among them, as [n,C,8,8] in [-1, 1]."""
    drawn = np.random.default_rng(0).choice([0, 255, *range(256)], (n, channels, 8, 8)).astype(np.float32)
    return torch.from_numpy(drawn / 127.5 - 1)


def noise(seed: int = 0) -> Noise:
    return Noise(seed, 0, torch.device("cpu"))


# ---------------------------------------------------------------------------------------------- Algorithm 4


def test_edit_is_algorithm_4_line_by_line() -> None:
    rng = torch.Generator().manual_seed(0)
    M = torch.linalg.qr(torch.randn(64, 64, generator=rng))[0]
    omega = (torch.rand(64, generator=rng) < 0.5).float()
    model, y, t, z = network(1), pixels(1, 2), [80.0, 7.0, 0.3], noise()

    def A(x: Tensor) -> Tensor:
        return x.flatten(1) @ M

    def A_inverse(v: Tensor) -> Tensor:
        return (v @ M.T).view(-1, 1, 8, 8)

    y_masked = A_inverse(A(y) * (1 - omega) + 0 * omega)
    x = model(y_masked + t[0] * z.normal(*y.shape), torch.full((2,), t[0]))
    x = A_inverse(A(y) * (1 - omega) + A(x) * omega)
    for tau in t[1:]:
        x = x + math.sqrt(tau**2 - 0.002**2) * z.normal(*y.shape)
        x = model(x, torch.full((2,), tau))
        x = A_inverse(A(y) * (1 - omega) + A(x) * omega)
    got = editing.edit(model, y, A, A_inverse, omega, t, CFG, noise())
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(A(got) * (1 - omega), A(y) * (1 - omega), rtol=0, atol=1e-4)


def test_levels_are_cms_grid_without_eps() -> None:
    N = 40
    grid = [(80 ** (1 / 7) + i / (N - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(N)]
    assert editing.editing_levels(N - 1, CFG) == pytest.approx(grid[:-1], rel=1e-9)
    assert editing.editing_levels(1, CFG) == [80.0]
    low = editing.editing_levels(3, CFG, start=5.38)
    assert low[0] == 5.38
    assert low == sorted(low, reverse=True)
    assert low[-1] > CFG.t_min


def test_orthogonal_is_cms_matrix() -> None:
    Q = editing.orthogonal(editing.LUMA)
    printed = torch.tensor([[0.4471, -0.8204, 0.3563], [0.8780, 0.4785, 0], [0.1705, -0.3129, -0.9343]])
    torch.testing.assert_close(Q.abs(), printed.abs(), rtol=0, atol=2e-4)
    for basis in (Q, editing.orthogonal([1.0] * 16)):
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis[:, 0], torch.full((16,), 0.25))


def test_towards_stops_at_the_bound_and_leaves_the_rest() -> None:
    x = torch.tensor([[0.5, -3.5], [0.6, -0.4], [1.0, 1.0]])
    centre = torch.tensor([[-0.5], [0.1], [1.0]])
    x[0, 0] = 2.5
    expected = [[0.0, -1.0], [0.6, -0.4], [1.0, 1.0]]
    torch.testing.assert_close(editing.towards(centre, x, 1), torch.tensor(expected))


# ---------------------------------------------------------------------------------------------- tasks


def inpaint(model: nn.Module, x: Tensor, z: Noise) -> Tensor:
    return editing.inpaint(model, x, MASK, LEVELS, CFG, z)


def colorize(model: nn.Module, x: Tensor, z: Noise) -> Tensor:
    return editing.colorize(model, x, LEVELS, CFG, z)


def super_resolve(model: nn.Module, x: Tensor, z: Noise) -> Tensor:
    return editing.super_resolve(model, x, 4, LEVELS, CFG, z)


MASK = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
MASK[..., 2:5, 3:] = True
TASKS = [(inpaint, 1), (inpaint, 3), (colorize, 3), (super_resolve, 1), (super_resolve, 3)]


@pytest.mark.parametrize(("task", "channels"), TASKS)
def test_what_is_made_up_depends_on_the_noise_and_is_in_range(
    task: Callable[[nn.Module, Tensor, Noise], Tensor], channels: int
) -> None:
    model, x = network(channels), pixels(channels)
    raw = model(80 * torch.randn(3, channels, 8, 8), torch.full((3,), 80.0))
    assert raw.abs().max() > 3  # so the range is a matter of the task's own
    one, again, other = (task(model, x, noise(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape == x.shape
    assert one.abs().max() <= 1 + 1e-6
    for i in range(len(x)):
        assert (one[i] - other[i]).abs().max() > 0.1
        assert (one[i] - x[i]).abs().max() > 0.1


def test_inpainting_keeps_the_known_bytes() -> None:
    for channels in (1, 3):
        x = pixels(channels)
        got, before = to_uint8(inpaint(network(channels), x, noise())), to_uint8(x)
        known = ~MASK.expand_as(x)
        assert torch.equal(got[known], before[known])
        assert (got[~known] != before[~known]).float().mean() > 0.8
    masks = torch.stack([MASK[0], ~MASK[0], MASK[0]])
    got = to_uint8(editing.inpaint(network(3), x, masks, LEVELS, CFG, noise()))
    assert torch.equal(got[1][:, MASK[0, 0]], before[1][:, MASK[0, 0]])


def test_colouring_keeps_the_grey_of_the_stored_image() -> None:
    x = pixels(3)
    greys = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in to_uint8(x)]
    grey = torch.from_numpy(np.stack(greys).astype(np.float32))[:, None].expand(-1, 3, -1, -1)
    got = to_uint8(colorize(network(3), grey / 127.5 - 1, noise()))
    for image, expected in zip(got, greys, strict=True):
        stored = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(stored.astype(int) - expected).max() <= 1  # bytes are rounded once per channel, once in convert
    coloured = (got.float().amax(1) - got.float().amin(1))[(grey[:, 0] > 30) & (grey[:, 0] < 225)]
    assert coloured.median() > 30
    luma = torch.einsum("bchw,c->bhw", got.float(), torch.tensor(editing.LUMA)) / sum(editing.LUMA)
    assert (luma - grey[:, 0]).abs().max() < 0.51


def test_colouring_sees_the_luma_alone() -> None:
    x, model = pixels(3) / 2, network(3)
    shift = torch.tensor([0.1140, 0.0, -0.2989]).view(1, 3, 1, 1)  # of no luma
    a, b = (editing.colorize(model, image, LEVELS[:2], CFG, noise()) for image in (x, x + shift))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


@pytest.mark.parametrize("factor", [2, 4])
def test_super_resolution_keeps_the_means_of_the_stored_image(factor: int) -> None:
    model, x = network(3), pixels(3)
    x[0, :, :4, :4] = 1.0  # nothing can be added to white
    got = to_uint8(editing.super_resolve(model, x, factor, LEVELS, CFG, noise())).float()
    means, expected = (nn.functional.avg_pool2d(image, factor) for image in (got, to_uint8(x).float()))
    assert (means - expected).abs().max() <= 0.5
    assert (got[0, :, :4, :4] == 255).all()
    low = nn.functional.interpolate(nn.functional.avg_pool2d(x, factor), scale_factor=factor)
    a, b = (editing.super_resolve(model, image, factor, LEVELS[:2], CFG, noise()) for image in (x, low))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-3)  # it sees the means alone


class Spy(nn.Module):
    """f(x, t) = x / 2, which remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, float, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.seen.append((x, t.unique().item(), labels))
        return x / 2


def test_stroke_starts_from_the_painting() -> None:
    spy, x, z, labels = Spy(), pixels(3, 2), noise(), torch.tensor([4, 2])
    got = editing.stroke(spy, x, [5.38, 2.24], CFG, noise(), labels)
    first = x + 5.38 * z.normal(*x.shape)
    second = first / 2 + math.sqrt(2.24**2 - 0.002**2) * z.normal(*x.shape)
    torch.testing.assert_close(spy.seen[0][0], first)
    torch.testing.assert_close(spy.seen[1][0], second)
    assert [t for _, t, _ in spy.seen] == pytest.approx([5.38, 2.24])
    assert all(given is labels for _, _, given in spy.seen)
    torch.testing.assert_close(got, (second / 2).clamp(-1, 1))


def test_denoising_is_f_at_the_level() -> None:
    model, x = network(1, loud=1), pixels(1)
    torch.testing.assert_close(editing.denoise(model, x, 0.5), model(x, torch.full((3,), 0.5)).clamp(-1, 1))
    assert torch.equal(editing.denoise(model, x, CFG.t_min), x)


def test_interpolation_follows_the_arc() -> None:
    model, (z1, z2) = network(1), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([0.0, 0.25, 1.0])
    got = editing.interpolate(model, z1, z2, alpha, CFG)
    ends = one_step(model, torch.stack([z1, z2]), CFG).clamp(-1, 1)
    torch.testing.assert_close(got[[0, 2]], ends, rtol=1e-4, atol=1e-4)
    assert (got[1] - got[0]).abs().max() > 0.05
    unit = [z / z.norm() for z in (z1, z2)]
    arc = editing.slerp(unit[0], unit[1], alpha)
    torch.testing.assert_close(arc.flatten(1).norm(dim=1), torch.ones(3))
    angle = torch.acos((unit[0] * unit[1]).sum())
    torch.testing.assert_close(torch.acos((arc[1] * unit[0]).sum()), angle / 4)
    assert torch.equal(editing.slerp(z1, z1, alpha), z1.expand(3, 1, 8, 8))
