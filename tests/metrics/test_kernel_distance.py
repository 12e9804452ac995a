import pytest
import torch
from torch import Tensor

from act_ray.metrics.kernel_distance import SUBSET, kernel_distance, subset_size


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_kid_takes_smaller_subsets_of_fewer_images() -> None:
    assert subset_size(50_000, 10_000) == SUBSET == 1000
    assert subset_size(50_000, 700) == 700
    assert subset_size(64, 700) == 64
    found = kernel_distance(normal(64, 4, 0), normal(100, 4, 1))
    assert found["kid"] == pytest.approx(0, abs=0.05)
    assert kernel_distance(normal(64, 4, 0) + 1, normal(100, 4, 1))["kid"] > 1
