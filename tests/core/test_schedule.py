"""The schedules against the values that the paper and its parents print."""

import math
from collections.abc import Callable

import pytest
import torch

from act_ray.config import Config
from act_ray.core.options import Loss, Schedule
from act_ray.core.schedule import adversarial_weight, noise_level, num_levels, teacher_decay

CIFAR = Schedule()
IMAGENET = Schedule(s1=200, mu0=0.95)

# ---------------------------------------------------------------------------------------------- N(k)


@pytest.mark.parametrize(
    ("form", "s1", "expected"),
    [
        ("paper", 150, [2, 76, 107, 131, 151]),
        ("paper", 200, [2, 101, 143, 175, 201]),
        ("authors", 150, [2, 75, 106, 130, 150]),
        ("authors", 200, [2, 100, 141, 173, 200]),
    ],
)
@pytest.mark.parametrize("K", [400_000, 8_000])
def test_number_of_levels(form: str, s1: int, expected: list[int], K: int) -> None:
    cfg = Schedule(s1=s1, levels=form)  # type: ignore[arg-type]
    assert [num_levels(k, K, cfg) for k in (0, K // 4, K // 2, 3 * K // 4, K)] == expected


@pytest.mark.parametrize("form", ["paper", "authors"])
@pytest.mark.parametrize(("s0", "s1"), [(2, 2), (2, 10), (3, 150)])
def test_levels_never_fall_and_start_at_s0(form: str, s0: int, s1: int) -> None:
    cfg = Schedule(s0=s0, s1=s1, levels=form)  # type: ignore[arg-type]
    levels = [num_levels(k, 997, cfg) for k in range(998)]
    assert levels[0] == s0
    assert levels == sorted(levels)
    assert levels[-1] == (s1 + 1 if form == "paper" else s1)


# ---------------------------------------------------------------------------------------------- mu(k)


@pytest.mark.parametrize(
    ("cfg", "N", "mu"),
    [(CIFAR, 2, 0.81), (CIFAR, 151, 0.998596), (IMAGENET, 2, 0.9025), (IMAGENET, 201, 0.999487)],
)
def test_teacher_decay(cfg: Schedule, N: int, mu: float) -> None:
    assert teacher_decay(N, cfg) == pytest.approx(mu, abs=5e-7)


def test_teacher_decay_as_printed_and_without_a_teacher() -> None:
    assert teacher_decay(2, Schedule(teacher_decay="paper")) == pytest.approx(0.9, rel=1e-12)
    assert teacher_decay(40, Schedule(teacher_decay="paper")) == pytest.approx(0.9 ** (2 / 40), rel=1e-12)
    assert teacher_decay(3, CIFAR) == pytest.approx(CIFAR.mu0, rel=1e-12)  # what config.py says of mu0
    assert teacher_decay(7, Schedule(mu0=0)) == 0.0


# ---------------------------------------------------------------------------------------------- t_j


def test_noise_levels_of_the_paper() -> None:
    t = noise_level(torch.tensor([0, 1, 74, 149]), 150, CIFAR)
    assert t.dtype == torch.float32
    assert [f"{v:.4g}" for v in t.tolist()] == ["0.002", "0.002358", "2.441", "80"]
    assert t[2].item() == pytest.approx(2.4406, abs=5e-5)


@pytest.mark.parametrize("N", [2, 3, 11, 151, 1281])
def test_levels_begin_at_eps_end_at_T_and_rise(N: int) -> None:
    t = noise_level(torch.arange(N), N, CIFAR)
    assert t[0] == torch.tensor(0.002)  # exactly: f(x, t_0) must be x
    assert t[-1].item() == pytest.approx(80.0, rel=1e-6)
    assert (t.diff() > 0).all()


def test_levels_do_not_depend_on_the_default_precision() -> None:
    t = noise_level(torch.arange(151), 151, CIFAR)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(noise_level(torch.arange(151), 151, CIFAR), t)


# ---------------------------------------------------------------------------------------------- lambda_N(j)


def weights(j: list[int], N: int, w: float, w_mid: float) -> list[float]:
    lam = adversarial_weight(torch.tensor(j), N, Loss(w=w, w_mid=w_mid))
    assert lam.dtype == torch.float32
    return lam.tolist()


def test_adversarial_weight_of_the_paper() -> None:
    kappa = math.log(0.2 / 0.6, 0.5)
    assert kappa == pytest.approx(1.58496, abs=1e-5)
    assert weights([1, 199], 200, 0.6, 0.2) == pytest.approx([0.000136, 0.6], abs=5e-7)
    assert weights([1], 200, 0.6, 0.2) == pytest.approx([0.6 * (1 / 199) ** kappa], rel=1e-6)
    assert weights([100, 200], 201, 0.6, 0.2) == pytest.approx([0.2, 0.6], rel=1e-6)  # half-way, and the end


@pytest.mark.parametrize("w", [0.3, 1.0])
def test_equal_weights_are_constant(w: float) -> None:
    assert weights([1, 2, 75, 149], 150, w, w) == [pytest.approx(w, rel=1e-7)] * 4


def test_edges_of_the_adversarial_weight() -> None:
    assert weights([1, 5, 10], 11, 0.0, 0.0) == [0, 0, 0]
    assert weights([1, 5, 10], 11, 0.6, 0.0) == pytest.approx([0, 0, 0.6])  # w_mid -> 0: only the last level
    assert weights([1], 2, 0.6, 0.2) == pytest.approx([0.6])  # two levels: j = N-1
    assert weights([1], 2, 0.6, 0.0) == pytest.approx([0.6])
    assert weights([1], 2, 0.0, 0.0) == [0]
    assert weights([1, 10], 11, 1.0, 1.0) == [1, 1]  # exactly: the teacher is not run


def test_adversarial_weight_grows_with_the_level(make_config: Callable[..., Config]) -> None:
    lam = adversarial_weight(torch.arange(1, 151), 151, make_config(loss__w=0.6, loss__w_mid=0.2).loss)
    assert (lam.diff() > 0).all()
    assert lam[0] > 0
    assert lam[-1] == torch.tensor(0.6)
