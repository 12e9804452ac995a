"""A scale for the Frechet distance: how far real images are from other real images of the same data set."""

import contextlib
import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from act_ray import jsonfile
from act_ray.data.shards import ImageData
from act_ray.files import cache_dir
from act_ray.metrics.features import FeatureNetwork
from act_ray.metrics.frechet import frechet_of_moments
from act_ray.metrics.moments import Chunk, Measured, Moments, combine, cut_into_chunks, moments, without
from act_ray.metrics.reference import REFERENCE_BATCH, Reference, cache_stem

# chunks of real images -> what was measured of each
MeasureReal = Callable[[Sequence[Chunk]], Iterable[Measured]]


def drawn(samples: int, images: int) -> int:
    """How many real images take the place of so many samples: half of all at most."""
    return min(samples, images // 2)


def real_distance(
    network: FeatureNetwork, data: ImageData, reference: Reference, samples: int, measure: MeasureReal
) -> float:
    """Frechet distance of `drawn` real images, chosen at random, from all others; cached.

    `measure` is called where neither the cache nor the reference has their features.
    """
    images = len(data.images)
    count = drawn(samples, images)
    file = cache_dir("reference") / f"{cache_stem(network, data)}-real-{count}.json"
    with contextlib.suppress(OSError, ValueError):
        return jsonfile.read(file, float)
    chosen = sorted(random.Random(0).sample(range(images), count))
    if reference.features is not None:
        part = moments(reference.features[chosen])
    else:
        chunks = [[[chosen[i] for i in batch] for batch in chunk] for chunk in cut_into_chunks(count, REFERENCE_BATCH)]
        part = combine(measure(chunks), count).moments
    mean, covariance = (np.asarray(reference.statistics[name], np.float64) for name in ("mu", "sigma"))
    others = without(Moments(images, mean, covariance * (images - 1)), part)
    found = frechet_of_moments(part, {"mu": others.mean, "sigma": others.covariance()})
    jsonfile.write(file, found)
    return found
