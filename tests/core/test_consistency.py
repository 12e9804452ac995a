"""f(x, t): its boundary condition, its coefficients, its samplers."""

import math

import pytest
import torch
from torch import Tensor, nn

from act_ray.core.consistency import Consistency, multistep, one_step, time_input
from act_ray.core.options import Schedule
from act_ray.core.schedule import noise_level

CFG = Schedule()


class Spy(nn.Module):
    """F with a fixed answer, which remembers what it was given."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.seen.append((x, t, labels))
        return torch.full_like(x, self.answer)


# ---------------------------------------------------------------------------------------------- f(x, t)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_f_at_eps_is_x_exactly(precision: str) -> None:
    x = torch.randn(4, 3, 8, 8) * 5
    f = Consistency(nn.Identity(), CFG, precision)
    f.network = Spy(7.0)
    assert torch.equal(f(x, torch.full((4,), CFG.t_min)), x)
    assert torch.equal(f(x, noise_level(torch.zeros(4, dtype=torch.long), 11, CFG)), x)


def test_coefficients_at_the_largest_level() -> None:
    t, one, nought = torch.tensor([80.0]), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    spy = Spy(1.0)
    f = Consistency(spy, CFG)
    assert f(nought, t).item() == pytest.approx(0.49998, abs=5e-6)  # c_out
    spy.answer = 0.0
    assert f(one, t).item() == pytest.approx(3.906e-5, rel=2e-4)  # c_skip
    assert spy.seen[-1][0].item() == pytest.approx(0.0125, rel=1e-4)  # c_in


@pytest.mark.parametrize("t", [0.01, 0.5, 3.0])
def test_coefficients_in_between(t: float) -> None:
    spy = Spy(2.0)
    got = Consistency(spy, CFG)(torch.full((1, 1, 1, 1), 3.0), torch.tensor([t])).item()
    expected = 0.25 / ((t - 0.002) ** 2 + 0.25) * 3 + 0.5 * (t - 0.002) / math.sqrt(t**2 + 0.25) * 2
    assert got == pytest.approx(expected, rel=1e-5)
    assert spy.seen[0][0].item() == pytest.approx(3 / math.sqrt(t**2 + 0.25), rel=1e-6)


def test_each_sample_has_its_own_level_and_label() -> None:
    spy, labels = Spy(1.0), torch.tensor([4, 2])
    x, t = torch.randn(2, 1, 4, 4), torch.tensor([80.0, 0.002])
    out = Consistency(spy, CFG)(x, t, labels)
    assert torch.equal(out[1], x[1])
    assert not torch.isclose(out[0], x[0]).all()
    assert spy.seen[0][2] is labels


def test_time_input() -> None:
    t = torch.tensor([0.002, 1.0, 80.0])
    assert time_input(t, CFG).tolist() == pytest.approx([250 * math.log(0.002), 0, 250 * math.log(80)], rel=1e-6)
    assert torch.equal(time_input(t, Schedule(time_input="linear")), t)
    spy = Spy(0.0)
    Consistency(spy, CFG)(torch.zeros(3, 1, 2, 2), t)
    assert torch.equal(spy.seen[0][1], time_input(t, CFG))


def test_bf16_keeps_float32_around_the_network() -> None:
    kinds = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            out: Tensor = self.conv(x)
            kinds.extend([out.dtype, t.dtype])
            return out

    net, x, t = Net(), torch.randn(2, 1, 8, 8), torch.tensor([0.0021, 80.0])
    half, full = Consistency(net, CFG, "bf16")(x, t), Consistency(net, CFG)(x, t)
    assert kinds == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
    assert half.dtype == full.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.01)
    torch.testing.assert_close(half[0], full[0], rtol=0, atol=1e-5)  # c_skip x does not pass through bf16


# ---------------------------------------------------------------------------------------------- samplers


def test_one_step_is_f_of_T_z() -> None:
    spy, z, labels = Spy(1.0), torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 2])
    f = Consistency(spy, CFG)
    torch.testing.assert_close(one_step(f, z, CFG, labels), f(80 * z, torch.full((3,), 80.0), labels), rtol=0, atol=0)
    assert spy.seen[0][2] is labels


def test_multistep_is_algorithm_1() -> None:
    net = nn.Conv2d(1, 1, 3, padding=1)

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            return torch.tanh(net(x) + t[:, None, None, None] / 1000)

    f, z = Consistency(Net(), CFG), [torch.randn(2, 1, 4, 4) for _ in range(3)]
    with torch.no_grad():
        x = f(80 * z[0], torch.full((2,), 80.0))
        for tau, noise in ((5.0, z[1]), (0.3, z[2])):
            x = f(x + (tau**2 - 0.002**2) ** 0.5 * noise, torch.full((2,), tau))
    got = multistep(f, z, [5.0, 0.3], CFG)
    torch.testing.assert_close(got, x, rtol=0, atol=0)
    assert not got.requires_grad


def test_multistep_counts_and_edges() -> None:
    spy, z = Spy(1.0), [torch.randn(2, 1, 4, 4) for _ in range(3)]
    f = Consistency(spy, CFG)
    multistep(f, z, [5.0, 0.3], CFG)
    assert len(spy.seen) == 3
    assert torch.equal(multistep(f, z[:1], [], CFG), one_step(f, z[0], CFG))
    assert torch.equal(multistep(f, z[:2], [CFG.t_min], CFG), one_step(f, z[0], CFG))  # no noise, and f(x, eps) = x
    with pytest.raises(ValueError, match="zip"):
        multistep(f, z[:2], [5.0, 0.3], CFG)
