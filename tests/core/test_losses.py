"""The losses against closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn

from act_ray.core import losses
from act_ray.core.options import Loss

A = torch.tensor([[[[0.0, 1.0], [2.0, -1.0]]], [[[0.5, 0.5], [0.5, 0.5]]]])
B = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]], [[[0.5, 0.5], [0.5, 0.5]]]])  # differences 1, 0, 2, -2; and none

# ---------------------------------------------------------------------------------------------- distances


def test_distances() -> None:
    c = 0.00054 * math.sqrt(4)
    assert losses.l2(A, B).tolist() == pytest.approx([9 / 4, 0])
    assert losses.l1(A, B).tolist() == pytest.approx([5 / 4, 0])
    assert losses.pseudo_huber(A, B).tolist() == pytest.approx([math.sqrt(9 + c**2) - c, 0], rel=1e-6, abs=1e-7)


def test_pseudo_huber_is_quadratic_near_zero_and_differentiable_at_it() -> None:
    a = torch.zeros(1, 3, 32, 32, requires_grad=True)
    c = 0.00054 * math.sqrt(3 * 32 * 32)
    losses.pseudo_huber(a, torch.zeros_like(a)).sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, torch.zeros_like(a))
    tiny = torch.full_like(a, 1e-5)
    norm2 = 3 * 32 * 32 * 1e-10
    assert losses.pseudo_huber(tiny.double(), torch.zeros_like(tiny).double()).item() == pytest.approx(
        norm2 / (2 * c), rel=1e-3
    )


# ---------------------------------------------------------------------------------------------- adversarial

LOGITS = [-30.0, -2.0, 0.0, 0.7, 30.0]


def test_generator_losses() -> None:
    logit = torch.tensor(LOGITS, dtype=torch.float64)
    D = torch.sigmoid(logit)
    saturating = losses.generator_loss(logit, Loss(adversarial="saturating"))
    other = losses.generator_loss(logit, Loss(adversarial="non_saturating"))
    torch.testing.assert_close(saturating[:4], torch.log(1 - D)[:4])
    torch.testing.assert_close(other, -torch.log(D))
    assert torch.equal(losses.generator_loss(logit, Loss()), other)  # the default
    assert saturating[4].item() == pytest.approx(-30)  # where 1 - D has no digits left
    for cfg in (Loss(adversarial="saturating"), Loss()):
        assert (losses.generator_loss(logit, cfg).diff() < 0).all()  # both fall as D is fooled


def test_saturating_loss_saturates() -> None:
    for kind, slope in (("saturating", -torch.sigmoid(torch.tensor(-6.0))), ("non_saturating", torch.tensor(-0.9975))):
        logit = torch.tensor(-6.0, requires_grad=True)
        losses.generator_loss(logit, Loss(adversarial=kind)).backward()  # type: ignore[arg-type]
        assert logit.grad is not None
        assert logit.grad.item() == pytest.approx(slope.item(), rel=1e-3)


def test_discriminator_losses() -> None:
    logit = torch.tensor(LOGITS[:4], dtype=torch.float64)
    D = torch.sigmoid(logit)
    torch.testing.assert_close(losses.discriminator_loss_fake(logit), -torch.log(1 - D))
    torch.testing.assert_close(losses.discriminator_loss_real(logit), -torch.log(D))
    assert losses.discriminator_loss_fake(torch.tensor([200.0])).item() == 200
    assert losses.discriminator_loss_real(torch.tensor([-200.0])).item() == 200


# ---------------------------------------------------------------------------------------------- gradient penalty


@pytest.mark.parametrize("differentiable", [False, True])
def test_gradient_penalty_of_linear_and_quadratic_d(differentiable: bool) -> None:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    a = torch.randn(2, 4, 4, dtype=torch.float64)
    linear = losses.squared_gradient((a * x).flatten(1).sum(1), x, differentiable)
    torch.testing.assert_close(linear, a.square().sum().expand(3).float())
    M = torch.randn(32, 32, dtype=torch.float64)
    v = x.flatten(1)
    got = losses.squared_gradient(torch.einsum("bi,ij,bj->b", v, M, v), x, differentiable)
    torch.testing.assert_close(got, (v @ (M + M.T)).square().sum(1).float())
    assert got.shape == (3,)
    assert got.requires_grad is differentiable


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.conv(x)).flatten(1)).squeeze(1)
        return out


def test_gradient_of_the_penalty_is_its_finite_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # the penalty is float32 by design: too coarse for differences
    D, x = Net().double(), torch.randn(3, 1, 4, 4, dtype=torch.float64)

    def penalty(differentiable: bool) -> Tensor:
        leaf = x.clone().requires_grad_()
        return losses.squared_gradient(D(leaf), leaf, differentiable).mean()

    penalty(True).backward()
    for name, parameter in D.named_parameters():
        direction = torch.randn_like(parameter)
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        values = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += h * direction
            values.append(penalty(False).item())
            with torch.no_grad():
                parameter -= h * direction
        slope = (values[0] - values[1]) / 2e-5
        assert (grad * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-9), name
        assert (slope == 0) == (name == "head.bias")


def test_gradient_penalty_leaves_no_gradients_behind() -> None:
    D, x = Net(), torch.randn(3, 1, 4, 4, requires_grad=True)
    logit = D(x)
    losses.squared_gradient(logit, x, differentiable=False)
    assert x.grad is None
    assert all(p.grad is None for p in D.parameters())
    logit.sum().backward()  # the graph is still there for the rest of the loss
