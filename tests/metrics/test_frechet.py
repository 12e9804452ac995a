"""The Frechet distance against closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics

from act_ray.metrics.frechet import frechet_distance
from act_ray.metrics.scores import WORST


def with_moments(mean: np.ndarray, cov: np.ndarray, n: int, seed: int) -> Tensor:
    """n samples whose mean and covariance are exactly these, so that the closed form has no sampling error."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(mean + x @ np.linalg.cholesky(cov).T)


# ---------------------------------------------------------------------------------------------- Frechet distance


def test_distance_of_gaussians_is_the_closed_form() -> None:
    """Diagonal: sum (m1-m2)^2 + (s1-s2)^2. Rotating both sides the same way changes nothing."""
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 8))
    s1, s2 = rng.uniform(0.5, 2, (2, 8))
    exact = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    for q in (np.eye(8), turn):
        a = with_moments(q @ m1, q @ np.diag(s1**2) @ q.T, 500, 1)
        b = with_moments(q @ m2, q @ np.diag(s2**2) @ q.T, 700, 2)
        assert frechet_distance(a, fid_features_to_statistics(b)) == pytest.approx(exact, rel=1e-6)
        assert frechet_distance(b, fid_features_to_statistics(a)) == pytest.approx(exact, rel=1e-6)


def test_distance_of_covariances_that_do_not_commute() -> None:
    """tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2) by eigenvalues."""
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 6, 6))
    c1, c2 = (r @ r.T + np.eye(6) for r in roots)
    values, vectors = np.linalg.eigh(c1)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    exact = np.trace(c1 + c2) - 2 * np.sqrt(np.linalg.eigvalsh(root @ c2 @ root)).sum()
    a, b = with_moments(np.zeros(6), c1, 400, 3), with_moments(np.zeros(6), c2, 400, 4)
    assert frechet_distance(a, fid_features_to_statistics(b)) == pytest.approx(exact, rel=1e-6)


def test_equal_sets_have_none() -> None:
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    assert 0 <= frechet_distance(x, fid_features_to_statistics(x)) < 1e-6


@pytest.mark.parametrize("n", [5, 40])
def test_features_without_full_rank(n: int) -> None:
    """Fewer samples than features, and features that never move: finite, about 0 against itself, not against others."""
    x = torch.randn(n, 24, generator=torch.Generator().manual_seed(0))
    x[:, ::2] = 0
    itself = frechet_distance(x, fid_features_to_statistics(x))
    other = frechet_distance(x + 1, fid_features_to_statistics(x))
    assert 0 <= itself < 1e-3
    assert other == pytest.approx(24, abs=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_score_worst(bad: float) -> None:
    x = torch.randn(50, 4)
    reference = fid_features_to_statistics(x)
    x[7, 2] = bad
    assert frechet_distance(x, reference) == WORST
