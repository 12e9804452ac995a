"""Precision and recall: what each is of, and that the distances are held in blocks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from act_ray.metrics import precision_recall as module
from act_ray.metrics.precision_recall import block_rows, precision_recall


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_precision_is_of_the_samples_and_recall_of_the_images() -> None:
    """Samples from the midst of the data: none is off it, and its rim is missed."""
    found = precision_recall(normal(300, 4, 0, 0.3), normal(400, 4, 1))
    assert found["precision"] > 0.97
    assert found["recall"] < 0.5


class Largest(TorchDispatchMode):
    """The most bytes that the result of one operation takes, other than a view."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if isinstance(x, Tensor)}
        made = [x.untyped_storage() for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.bytes = max([self.bytes, *(storage.nbytes() for storage in made if storage.data_ptr() not in given)])
        return out


def test_precision_and_recall_hold_blocks_of_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 x 500 distances are 1.2 MB; no result of an operation is larger than the block, here of 64 KB."""
    features, reference = normal(600, 16, 0), normal(500, 16, 1)
    with Largest() as largest:
        whole = precision_recall(features, reference)
    assert largest.bytes > 1_000_000
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 16)
    with Largest() as largest:
        assert precision_recall(features, reference) == pytest.approx(whole, abs=2e-3)
    assert largest.bytes <= 1 << 16


def test_blocks_of_50_000_features_stay_far_under_4_gib() -> None:
    """Six blocks (the parts, their whole, and what kthvalue makes of it) and two sets of 2,048 features."""
    rows = block_rows(50_000)
    assert rows >= 1000
    assert 6 * rows * 50_000 * 4 + 2 * 50_000 * 2048 * 4 < 5 << 29
    assert block_rows(100) == 10_000  # torch-fidelity's
    assert block_rows(1 << 40) == 1
