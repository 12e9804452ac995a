"""The fused RAdam against torch's own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from act_ray.train.radam import FusedRAdam, rectified


def updates(optimizer: Optimizer, weights: list[nn.Parameter], steps: range) -> list[Tensor]:
    """The weights after these steps' gradients, which are the same for every optimizer; some tiny, for eps."""
    for step in steps:
        draws = torch.Generator().manual_seed(step)
        for i, weight in enumerate(weights):
            noise = torch.randn(weight.shape, generator=draws, dtype=torch.float64)
            weight.grad = (noise * 10.0 ** -(3 * i)).to(weight)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def fresh(dtype: torch.dtype) -> list[nn.Parameter]:
    shapes = ((7, 5, 3, 3), (11,), (3, 4))
    return [nn.Parameter(torch.ones(shape, dtype=dtype) / (i + 1)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("betas", [(0.0, 0.99), (0.9, 0.999), (0.0, 0.9318), (0.5, 0.5)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_it_is_radam(betas: tuple[float, float], dtype: torch.dtype, near: float) -> None:
    """Before r_t is used, after it, and where it never is (beta2 = .5); gradients of 1e-6 are not far above eps."""
    a, b = fresh(dtype), fresh(dtype)
    theirs = updates(torch.optim.RAdam(a, 1e-2, betas, foreach=True), a, range(60))
    ours = updates(FusedRAdam(b, 1e-2, betas, foreach=True), b, range(60))
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=near)
    assert (rectified(60, betas[1]) > 0) == (betas[1] > 0.5)


def test_it_goes_on_from_radams_state() -> None:
    a = fresh(torch.float64)
    theirs = torch.optim.RAdam(a, 1e-2, (0.0, 0.99), foreach=True)
    updates(theirs, a, range(10))
    b = copy.deepcopy(a)
    ours = FusedRAdam(b, 1e-2, (0.0, 0.99), foreach=True)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for one, other in zip(updates(theirs, a, range(10, 20)), updates(ours, b, range(10, 20)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    back = theirs.state_dict(), ours.state_dict()
    assert [state["step"] for state in back[0]["state"].values()] == [
        state["step"] for state in back[1]["state"].values()
    ]
