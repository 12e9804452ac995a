"""The order of training images: a function of (seed, step) alone, whatever the number of ranks or restarts."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def subset_indices(n: int, count: int) -> NDArray[np.int64]:
    """`count` of n images, a function of the two numbers alone: a smaller subset lies within a larger one."""
    return _permutation(n, 0, 0)[:count]


def batch_indices(n: int, batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Indices [batch] into n images for 0-based `step`: without replacement within an epoch.

    The stream of all batches is the epochs' permutations end to end, so every image appears exactly once in an epoch,
    batches may straddle epochs, and batch may exceed n. Raises ValueError for n or batch below 1, a negative step, or a
    seed outside [0, 2^64).
    """
    if n < 1 or batch < 1 or step < 0 or not 0 <= seed < 1 << 64:
        raise ValueError(f"need n >= 1, batch >= 1, step >= 0, 0 <= seed < 2^64; got {n=} {batch=} {step=} {seed=}")
    out = np.empty(batch, dtype=np.int64)
    filled = 0
    while filled < batch:
        epoch, start = divmod(step * batch + filled, n)
        part = _permutation(n, seed, epoch)[start : start + batch - filled]
        out[filled : filled + len(part)] = part
        filled += len(part)
    return out


@lru_cache(maxsize=4)  # a straddling batch needs two; two more for a second data set in the same process
def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Permutation [n] of one epoch, from the Philox counter stream keyed by (seed, epoch).

    Sorted raw words rather than Generator.permutation: NumPy keeps the raw stream fixed between releases, but not what
    its Generator makes of it.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.setflags(write=False)  # it is shared by every caller through the cache
    return order
