"""Draws depend on (seed, step) alone; ranks hold slices of the same draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from act_ray.core.noise import Noise

CPU = torch.device("cpu")


def draws(noise: Noise, B: int) -> list[Tensor]:
    return [
        noise.integers(1, 9, B),
        noise.normal(B, 3, 5, 5),
        noise.uniform(B, 6),
        noise.normal(B),
        noise.uniform(B, 1),
    ]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("step", [0, 7])
def test_ranks_hold_slices_of_the_same_draws(world: int, step: int) -> None:
    whole = draws(Noise(3, step, CPU), 24)
    parts = [draws(Noise(3, step, CPU, rank, world), 24 // world) for rank in range(world)]
    for expected, *got in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(got), expected)


def test_draws_depend_on_seed_and_step_only() -> None:
    first = draws(Noise(3, 7, CPU), 8)
    torch.manual_seed(99)
    torch.randn(1000)
    for a, b in zip(first, draws(Noise(3, 7, CPU), 8), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("seed", "step"), [(3, 8), (4, 7), (7, 3), (0, 0), (2**40, 7)])
def test_other_seeds_and_steps_draw_otherwise(seed: int, step: int) -> None:
    assert not torch.isclose(Noise(3, 7, CPU).normal(64), Noise(seed, step, CPU).normal(64)).any()


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draws(Noise(0, 0, CPU), 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_distributions() -> None:
    noise = Noise(0, 0, CPU)
    z, u, j = noise.normal(40_000), noise.uniform(40_000), noise.integers(1, 5, 40_000)
    assert z.mean().abs() < 0.02
    assert (z.std() - 1).abs() < 0.02
    assert (u.mean() - 0.5).abs() < 0.01
    assert 0 <= u.min() <= u.max() < 1
    assert torch.bincount(j).tolist() == pytest.approx([0, *[10_000] * 4], abs=400)


@pytest.mark.parametrize(
    "draw", [lambda n: n.normal(4, 2), lambda n: n.uniform(4, 2), lambda n: n.integers(0, 2**40, 4)]
)
def test_one_draw_after_another_differs(draw: Callable[[Noise], Tensor]) -> None:
    noise = Noise(0, 0, CPU)
    assert not (draw(noise) == draw(noise)).any()
