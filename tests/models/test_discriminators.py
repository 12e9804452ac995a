"""What StyleGAN2's and Projected GAN's discriminators have in common, and the choice by discriminator.kind."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from act_ray import settings
from act_ray.config import Config, DiscriminatorConfig
from act_ray.errors import UserError
from act_ray.models.discriminators import build_discriminator, check_discriminator, require_discriminator_files
from tests.helpers.small_networks import T, images, projected, stylegan2

KINDS: dict[str, Callable[..., Any]] = {"stylegan2": stylegan2, "projected": projected}


both = pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)


# ---------------------------------------------------------------------------------------------- both


@both
@pytest.mark.parametrize(("t", "classes"), [(False, None), (True, 3)])
def test_every_trained_parameter_gets_a_gradient_also_of_the_penalty(
    build: Callable[..., Any], t: bool, classes: int | None
) -> None:
    D = build(channels=3, t=t, classes=classes)
    x = images(3, 3).requires_grad_()
    logit = D(x, T[:3], torch.arange(3) if classes else None)
    assert logit.shape == (3,)
    assert logit.dtype == torch.float32
    (grad,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
    (logit.square().sum() + grad.square().sum()).backward()
    trained = {name: p for name, p in D.named_parameters() if p.requires_grad}
    starved = [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not starved


@pytest.mark.parametrize(("build", "batch"), [(stylegan2, 3), (projected, 1)])  # 3: one group, whose deviation counts
def test_gradient_penalty_against_finite_differences(build: Callable[..., Any], batch: int) -> None:
    """R1 = ||grad_x D||^2, its derivative along a direction in the weights, and grad_x D itself, in float64."""
    D = build(t=True).double().eval()  # .eval(): spectral norm's iteration stands still
    x, t = images(batch).double().requires_grad_(), T[:batch].double()
    trained = [p for p in D.parameters() if p.requires_grad]

    def penalty() -> Tensor:
        (grad,) = torch.autograd.grad(D(x, t).sum(), x, create_graph=True)
        return grad.square().sum()

    def shifted(tensors: list[Tensor], by: list[Tensor], h: float, value: Callable[[], Tensor]) -> float:
        with torch.no_grad():
            torch._foreach_add_(tensors, by, alpha=h)
        result = float(value().detach())
        with torch.no_grad():
            torch._foreach_sub_(tensors, by, alpha=h)
        return result

    def slope(tensors: list[Tensor], by: list[Tensor], value: Callable[[], Tensor]) -> float:
        h = 1e-8  # few kinks of (Leaky)ReLU are that near
        return (shifted(tensors, by, h, value) - shifted(tensors, by, -h, value)) / (2 * h)

    along_x = torch.randn_like(x)
    (grad_x,) = torch.autograd.grad(D(x, t).sum(), x)
    assert float((grad_x * along_x).sum()) == pytest.approx(slope([x], [along_x], lambda: D(x, t).sum()), rel=1e-5)

    along = [torch.randn_like(p) for p in trained]
    grads = torch.autograd.grad(penalty(), trained, allow_unused=True)  # the last bias moves D, not its slope
    exact = sum(float((g * v).sum()) for g, v in zip(grads, along, strict=True) if g is not None)
    assert exact == pytest.approx(slope(trained, along, penalty), rel=1e-4)


@both
def test_bf16_autocast_stays_near_fp32_and_trains(build: Callable[..., Any]) -> None:
    D = build(t=True, classes=4).eval()
    x, labels = images(2), torch.arange(2)
    exact = D(x, T[:2], labels)
    with torch.autocast("cpu", torch.bfloat16):
        logit = D(x, T[:2], labels)
    assert logit.dtype == torch.float32
    assert not torch.equal(logit, exact)
    torch.testing.assert_close(logit, exact, rtol=0.05, atol=0.05)
    logit.sum().backward()
    assert all(p.grad.isfinite().all() for p in D.parameters() if p.requires_grad)


@both
def test_time_and_class_are_seen_when_asked_for(build: Callable[..., Any]) -> None:
    x, t, other = images(2), torch.full((2,), -500.0), torch.full((2,), 900.0)
    labels, others = torch.tensor([0, 1]), torch.tensor([2, 3])
    with_both, with_class, plain = (build(t=a, classes=b).eval() for a, b in ((True, 4), (False, 4), (False, None)))
    assert not torch.isclose(with_both(x, t, labels), with_both(x, other, labels)).any()
    assert not torch.isclose(with_both(x, t, labels), with_both(x, t, others)).any()
    assert torch.equal(with_class(x, t, labels), with_class(x, other, labels))
    assert not torch.isclose(with_class(x, t, labels), with_class(x, t, others)).any()
    assert torch.equal(plain(x, t), plain(x, other))


@both
def test_state_dict_is_self_contained(build: Callable[..., Any]) -> None:
    first, second = build(t=True).eval(), build(t=True).eval()
    x = images(2)
    assert not torch.isclose(first(x, T[:2]), second(x, T[:2])).any()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, T[:2]), second(x, T[:2]))


# ---------------------------------------------------------------------------------------------- by discriminator.kind


def of_kind(kind: str, **dotted: Any) -> Config:
    return settings.load("digits", {"discriminator.kind": kind, **dotted})


def test_a_kind_is_a_module_of_its_name_which_is_imported_when_asked_for() -> None:
    code = (
        "import sys; from act_ray import settings; from act_ray.models.discriminators import build_discriminator; "
        "build_discriminator(settings.load('digits', {'discriminator.kind': 'stylegan2'}), 1, 8); "
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    kinds = get_args(DiscriminatorConfig.model_fields["kind"].annotation)
    for kind in kinds:
        module = importlib.import_module(f"act_ray.models.discriminators.{kind}")
        assert all(callable(getattr(module, name)) for name in ("build", "check", "require_files"))
    assert len(kinds) == 3


def test_a_conditional_discriminator_sees_two_images() -> None:
    D = build_discriminator(of_kind("stylegan2", **{"discriminator.conditional": True}), 1, 8)
    assert D(torch.zeros(2, 2, 8, 8), T[:2]).shape == (2,)


def test_what_does_not_fit_is_found_before_anything_is_built() -> None:
    with pytest.raises(UserError, match="needs a multiple of 32 with 4 workers; nearest: 64"):
        check_discriminator(of_kind("stylegan2", **{"train.global_batch": 80}), 1, 8, 4)
    with pytest.raises(UserError, match="28x28 images"):
        check_discriminator(of_kind("stylegan2"), 1, 28, 1)
    with pytest.raises(UserError, match="images of 4 channels; it takes 1 or 3"):
        check_discriminator(of_kind("projected"), 4, 8, 1)
    for function in (lambda cfg: check_discriminator(cfg, 4, 9, 7), require_discriminator_files):
        function(of_kind("projected", **{"loss.w": 0, "loss.w_mid": 0}))  # no D at all
        function(of_kind("ddpm"))
