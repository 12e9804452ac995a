"""examples/gaussian_mixture.py: its closed forms, the terms of Theorem 3.1, and the whole command on a small scale."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from act_ray import settings
from act_ray.core.diffusion import ode_step
from act_ray.core.schedule import noise_level

SCRIPT = Path(__file__).parents[1] / "examples" / "gaussian_mixture.py"
EPS = torch.tensor(0.002, dtype=torch.float64)
FLOOR = (0.1, 0.01)


@pytest.fixture(scope="module")
def toy() -> Any:
    spec = importlib.util.spec_from_file_location("gaussian_mixture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grid(N: int, t_max: float = 80.0) -> Tensor:
    return noise_level(torch.arange(N), N, settings.load(None, {"schedule.t_max": t_max}).schedule).double()


def noisy(toy: Any, t: float, n: int = 200) -> Tensor:
    """n points of p_t."""
    g = torch.Generator().manual_seed(0)
    x: Tensor = toy.sample(n, g) + t * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return x


# ---------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("t", [0.002, 0.3, 80.0])
def test_density_cdf_and_score_belong_together(toy: Any, t: float) -> None:
    x, level = noisy(toy, t).requires_grad_(), torch.tensor(t, dtype=torch.float64)
    (score,) = torch.autograd.grad(toy.log_density(x, level).sum(), x, retain_graph=True)
    torch.testing.assert_close(toy.denoise(x, level), x + t**2 * score)
    (density,) = torch.autograd.grad(toy.cdf(x, level).sum(), x)
    torch.testing.assert_close(density, toy.log_density(x, level).exp())


def test_samples_have_the_variance_that_the_network_is_scaled_for(toy: Any) -> None:
    variance = noisy(toy, 0.0, 100_000).var(0)
    assert variance.tolist() == pytest.approx([settings.load(None).schedule.sigma_data ** 2] * 2, rel=0.01)


@pytest.mark.parametrize("t", [0.3, 80.0])
def test_exact_map_is_where_the_ode_ends(toy: Any, t: float) -> None:
    """The project's Heun solver with the exact denoiser, extrapolated from two grids; half-way f* is the same."""
    start = noisy(toy, t)

    def denoiser(x: Tensor, t: Tensor, labels: None) -> Tensor:
        out: Tensor = toy.denoise(x, t[0])
        return out

    def path(steps: int) -> Tensor:
        """x_t half-way and at eps."""
        levels, x, half = grid(steps + 1, t), start[:, :, None, None], start
        for j in range(steps, 0, -1):
            half = x if j == steps // 2 else half
            x = ode_step(denoiser, x, levels[j].expand(len(x)), levels[j - 1].expand(len(x)), None, "heun")  # type: ignore[arg-type]
        return torch.stack([half, x])[..., 0, 0]

    half, end = (4 * path(1600) - path(800)) / 3  # Heun's error is of second order
    levels = grid(1601, t)
    exact = toy.exact_map(start, levels[-1], levels[0])
    assert (end - exact).abs().max() < 1e-6
    assert (toy.exact_map(half, levels[800], levels[0]) - exact).abs().max() < 1e-6


def test_exact_map_at_eps_is_the_identity_and_carries_its_derivative(toy: Any) -> None:
    x = noisy(toy, 0.002)
    torch.testing.assert_close(toy.exact_map(x, EPS, EPS), x, rtol=0, atol=1e-12)
    t, x = torch.tensor(5.0, dtype=torch.float64), noisy(toy, 5.0)
    slope = (toy.log_density(x, t) - toy.log_density(toy.exact_map(x, t, EPS), EPS)).exp()  # p_t(x) / p_eps(f*)
    assert toy.lipschitz(lambda x, t: toy.exact_map(x, t, EPS), x, t) == pytest.approx(slope.max().item(), rel=1e-9)


# ---------------------------------------------------------------------------------------------- the theorem's terms


def test_wasserstein_of_a_shift_is_its_length(toy: Any) -> None:
    x = noisy(toy, 0.0, 64)
    assert toy.wasserstein(x, x.flip(0) + torch.tensor([0.3, 0.4])) == pytest.approx(0.5)


def test_lipschitz_of_a_linear_map_is_its_largest_singular_value(toy: Any) -> None:
    matrix = torch.tensor([[1.0, 2.0], [0.5, -3.0]], dtype=torch.float64)
    largest = torch.linalg.svdvals(matrix).max().item()
    assert toy.lipschitz(lambda x, t: x @ matrix.T, noisy(toy, 1.0), EPS) == pytest.approx(largest)


def test_gap_at_the_start_is_that_of_two_wide_gaussians(toy: Any) -> None:
    """At T = 80, p_T is N(0, (T^2 + 0.25) I) but for O(1/T^3): W = E||z|| (sqrt(T^2 + 0.25) - T)."""
    z = torch.randn(5_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = math.sqrt(math.pi / 2) * (math.sqrt(80**2 + 0.25) - 80)
    assert toy.start_gap(torch.tensor(80.0, dtype=torch.float64), z) == pytest.approx(expected, rel=0.03)


def test_loss_of_a_known_map_adds_up(toy: Any) -> None:
    """f(x, t) = x: each level adds (t_j - t_{j-1}) E||z||, so the bound at t is t E||z||, and W is just below it."""
    levels = torch.tensor([0.002, 0.1, 0.5, 80.0], dtype=torch.float64)
    m = toy.measure(lambda x, t: x, levels, 300, 0, "identity")
    assert m.bound == pytest.approx((levels * math.sqrt(math.pi / 2)).tolist(), rel=0.1)
    assert m.error[-1] > 0.98 * m.bound[-1]
    assert m.lipschitz == pytest.approx(1)
    exact = toy.measure(lambda x, t: toy.exact_map(x, t, levels[0]), levels, 300, 0, "exact map")
    assert exact.off == 0
    assert toy.violations({"identity": m, "exact map": exact}, levels, FLOOR) == []


def test_violations_are_found(toy: Any) -> None:
    """A map without f(x, eps) = x, and an exact map that is not: neither is covered by its L_CT."""
    levels = grid(6)
    exact = toy.measure(lambda x, t: toy.exact_map(x, t, levels[0]), levels, 200, 0, "exact map")
    shifted = toy.measure(lambda x, t: toy.exact_map(x, t, levels[0]) + 0.5, levels, 200, 0, "shifted")
    found = toy.violations({"shifted": shifted, "exact map": exact}, levels, FLOOR)
    assert found
    assert all(line.startswith("shifted, t = ") for line in found)
    assert toy.violations({"exact map": shifted}, levels, FLOOR)[-1].startswith("exact map, t = one step: W = ")
    late = replace(exact, start_error=exact.bound[-1] + 1)
    assert len(toy.violations({"late": late, "exact map": exact}, levels, FLOOR)) == 1


# ---------------------------------------------------------------------------------------------- the command


def test_training_improves_on_the_first_network(toy: Any) -> None:
    chosen = {**toy.SETTINGS, **toy.METHODS["ACT"], "train.global_batch": 32}
    x, data = noisy(toy, 80.0), noisy(toy, 0.0)
    errors = []
    for steps in (1, 100):
        f = toy.train(settings.load(None, {**chosen, "train.total_steps": steps}), "")
        errors.append(toy.wasserstein(f(x, torch.tensor(80.0)), data))
    assert errors[1] < 0.6 * errors[0]


def test_command_measures_draws_and_ends_with_0(toy: Any, tmp_path: Path) -> None:
    args = ["--steps", "20", "--points", "60", "--batch", "16", "--out", str(tmp_path / "new")]
    result = CliRunner().invoke(toy.command, args, standalone_mode=False, catch_exceptions=False)
    assert result.return_value == 0
    assert "one step" in result.output
    assert result.output.splitlines()[-1].startswith("holds at all 21 levels")
    with Image.open(tmp_path / "new" / "gaussian_mixture.png") as image:
        assert image.size[0] > 1000
    assert "</svg>" in (tmp_path / "new" / "gaussian_mixture.svg").read_text()


def test_command_ends_with_1_when_the_theorem_is_violated(toy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(toy, "train", lambda cfg, title: lambda x, t: 0 * x + 2)
    args = ["--steps", "1", "--points", "30", "--out", str(tmp_path)]
    result = CliRunner().invoke(toy.command, args, standalone_mode=False, catch_exceptions=False)
    assert result.return_value == 1
    assert "\nviolated:\nCT, t = 0.002: W = " in result.output
