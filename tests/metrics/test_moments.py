"""Moments: merged ones are the pooled ones, whatever the batches."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics

from act_ray.metrics.moments import (
    MOST_CHUNKS,
    Measured,
    Moments,
    combine,
    cut_into_chunks,
    measured,
    merge,
    moments,
    without,
)


def features(n: int = 1000, d: int = 24, offset: float = 0.0) -> Tensor:
    """Correlated, of unlike scales, in float64: what torch-fidelity then pools has no rounding of its own."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * rng.uniform(0.1, 10, d) + offset)


def assert_pooled(whole: Moments, x: Tensor) -> None:
    pooled = fid_features_to_statistics(x)
    assert whole.n == len(x)
    np.testing.assert_allclose(whole.mean, pooled["mu"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(whole.covariance(), pooled["sigma"], rtol=1e-10, atol=1e-10 * pooled["sigma"].max())


@pytest.mark.parametrize("sizes", [[1000], [250] * 4, [1, 2, 997], [333, 600, 67], [1] * 1000], ids=len)
def test_merged_moments_are_the_pooled_ones(sizes: list[int]) -> None:
    x = features()
    assert_pooled(combine((measured([batch], []) for batch in x.split(sizes)), 1000).moments, x)


def test_the_order_of_merging_is_no_matter_of_accuracy() -> None:
    """Batches that differ in their means as well, first with last, and as a tree."""
    x = features() + torch.arange(1000)[:, None] / 10
    a, b, c, d = (moments(batch) for batch in x.split([100, 450, 50, 400]))
    for whole in (merge(merge(a, b), merge(c, d)), merge(d, merge(b, merge(c, a)))):
        assert_pooled(whole, x)


def test_what_is_taken_out_again_leaves_the_others() -> None:
    x = features() + torch.arange(1000)[:, None] / 10
    assert_pooled(without(moments(x), moments(x[600:])), x[:600])


def test_a_mean_far_from_0_costs_no_digits() -> None:
    """Sums of squares would lose all sixteen: variances of 1 about a mean of 10^8."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(600, 8)) + 1e8)
    whole = combine((measured([batch], []) for batch in x.split(50)), 600).moments
    np.testing.assert_allclose(whole.covariance(), np.cov(x.numpy() - 1e8, rowvar=False), rtol=1e-7, atol=1e-7)


def test_features_of_half_their_size_are_summed_in_float64() -> None:
    x = features(offset=1000.0).float()
    assert_pooled(combine((measured([batch], []) for batch in x.split(64)), 1000).moments, x.double())


# ---------------------------------------------------------------------------------------------- combining


def test_kept_outputs_come_back_whole_and_in_order() -> None:
    first, second = features(d=3).float(), features(d=5).float()
    batches = list(zip(first.split(300), second.split(300), strict=True))
    for keep, outputs in (([], []), ([0], [first]), ([1], [second]), ([0, 1], [first, second])):
        part = combine((measured(batch, keep) for batch in batches), 1000)
        assert [output.dtype for output in part.kept] == [np.float32] * len(keep)
        assert all(np.array_equal(ours, output) for ours, output in zip(part.kept, outputs, strict=True))
        np.testing.assert_allclose(part.moments.mean, first.double().mean(0), rtol=1e-10)


def test_a_part_that_is_missing_is_noticed() -> None:
    parts = [Measured(moments(batch), [], 0) for batch in features().split(250)]
    with pytest.raises(AssertionError, match="parts of 750 images, not 1000"):
        combine(parts[:3], 1000)


# ---------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize(("n", "batch"), [(16, 250), (500, 250), (50_000, 250), (50_000, 7), (1_281_167, 250), (33, 1)])
def test_chunks_have_every_image_once_in_few_chunks(n: int, batch: int) -> None:
    chunks = cut_into_chunks(n, batch)
    batches = [b for chunk in chunks for b in chunk]
    assert [b.start for b in batches] == list(range(0, n, batch))
    assert [b.stop for b in batches[:-1]] == [b.start for b in batches[1:]]
    assert batches[-1].stop == n
    assert len(chunks) <= MOST_CHUNKS
    assert {len(chunk) for chunk in chunks[:-1]} <= {len(chunks[0])}
    assert len(chunks) == len(batches) or len(chunks) > MOST_CHUNKS // 2  # enough of them to keep many workers busy
