"""Mean and covariance of features that nobody keeps: moments of batches, merged exactly.

The Frechet distance needs no more of 50,000 features than this. Who computed which batch never shows: `cut_into_chunks`
cuts the work by its size alone, and what was measured is combined in its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from act_ray.errors import UserError

MOST_CHUNKS = 64  # moments of 2,048 features are 34 MB, more than the features of a batch

Array = NDArray[np.float64]
Chunk = Sequence[Sequence[int]]  # batches of image indices: what one worker measures at a time


@dataclass(frozen=True)
class Moments:
    """Of n features x [d]: their mean [d], and outer [d,d], the sum of (x - mean)(x - mean)^T."""

    n: int
    mean: Array
    outer: Array

    def covariance(self) -> Array:
        """np.cov's, over n - 1."""
        return self.outer / (self.n - 1)


def moments(features: Tensor) -> Moments:
    """Of one batch [n,d], in float64."""
    x = features.double()
    mean = x.mean(0)
    return Moments(len(x), mean.numpy(), ((x - mean).T @ (x - mean)).numpy())


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both batches together: Chan, Golub and LeVeque (1983), eq. 2.1, for vectors."""
    n, delta = a.n + b.n, b.mean - a.mean
    return Moments(n, a.mean + delta * (b.n / n), a.outer + b.outer + np.outer(delta, delta) * (a.n * b.n / n))


def without(whole: Moments, part: Moments) -> Moments:
    """Moments of the rest of the features, of which `part` are some: `merge`, solved for the other batch."""
    n = whole.n - part.n
    mean = (whole.mean * whole.n - part.mean * part.n) / n
    delta = mean - part.mean
    return Moments(n, mean, whole.outer - part.outer - np.outer(delta, delta) * (part.n * n / whole.n))


# ---------------------------------------------------------------------------------------------- images, measured


class Measured(NamedTuple):
    """What a feature network made of some images.

    moments: of its first output, the features. kept: the outputs [n,d] that were asked for, float32. bad: how many
    images have an output that is not finite.
    """

    moments: Moments
    kept: list[NDArray[np.float32]]
    bad: int

    def require_finite(self, what: str) -> None:
        """Raises UserError that counts the `what` ("samples", "real images") whose features are not finite."""
        _refuse(self.bad, self.moments.n, what)


def require_finite(outputs: Tensor, what: str) -> None:
    """Raises UserError that counts the `what` ("samples", "real images") whose outputs [n,d] are not finite."""
    _refuse(_count_bad([outputs]), len(outputs), what)


def _count_bad(outputs: Sequence[Tensor]) -> int:
    finite = torch.stack([torch.isfinite(output).all(1) for output in outputs])
    return int((~finite.all(0)).sum())


def _refuse(bad: int, n: int, what: str) -> None:
    if bad:
        raise UserError(
            f"{bad:,} of {n:,} {what} have features that are not finite, which no metric can compare; "
            "the weights of the feature network may be damaged"
        )


def measured(outputs: Sequence[Tensor], keep: Sequence[int]) -> Measured:
    """One batch, by the network's outputs [n,d]; the outputs of the indices `keep` are kept."""
    return Measured(moments(outputs[0]), [outputs[i].numpy() for i in keep], _count_bad(outputs))


def combine(parts: Iterable[Measured], n: int) -> Measured:
    """All parts, in their order, as one of n images; no more than one part is held at a time."""
    whole, kept, bad = None, list[NDArray[np.float32]](), 0
    for part in parts:
        start = whole.n if whole else 0
        if whole is None:
            kept = [np.empty((n, output.shape[1]), output.dtype) for output in part.kept]
        for all_rows, rows in zip(kept, part.kept, strict=True):
            all_rows[start : start + len(rows)] = rows
        whole = merge(whole, part.moments) if whole else part.moments
        bad += part.bad
    assert whole is not None, "no parts"
    assert whole.n == n, f"parts of {whole.n} images, not {n}"
    return Measured(whole, kept, bad)


def cut_into_chunks(n: int, batch: int) -> list[list[range]]:
    """n images in batches, and these in at most MOST_CHUNKS chunks: each is measured by one worker at a time."""
    batches = [range(start, min(start + batch, n)) for start in range(0, n, batch)]
    size = -(-len(batches) // MOST_CHUNKS)
    return [batches[i : i + size] for i in range(0, len(batches), size)]
