"""What samples are compared with: the features of a data set's images, measured once and cached."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from act_ray.data.shards import ImageData
from act_ray.data.store import free_space
from act_ray.errors import UserError
from act_ray.files import cache_dir, locked, replace_atomically
from act_ray.metrics.features import FeatureNetwork, compute_features, weights_digest
from act_ray.metrics.frechet import Statistics
from act_ray.metrics.moments import Chunk, Measured, combine, cut_into_chunks, measured
from act_ray.progress_bar import ProgressBar
from act_ray.written import seal, sealed

REFERENCE_BATCH = 250  # of real images; not eval.batch, for all runs on the data share what is cached
REFERENCE_VERSION = 2

# (chunks, outputs to keep) -> what was measured of each, in order
MeasureChunks = Callable[[Sequence[Chunk], list[int]], Iterable[Measured]]


@dataclass(frozen=True)
class Reference:
    """Moments of all real images' features, and the features where they were asked for.

    features: float32 [n,d], mapped from the cache.
    """

    statistics: Statistics
    features: Tensor | None


def reference_statistics(
    network: FeatureNetwork, data: ImageData, say: Callable[[str], None] = lambda line: None
) -> Statistics:
    """Moments of the whole data set's features, by this process unless the cache has them; `say` hears how far."""

    def measure(chunks: Sequence[Chunk], keep: list[int]) -> Iterator[Measured]:
        parts = (measure_images(network, data, chunk, keep) for chunk in chunks)
        return counted(parts, len(data.images), "measuring the real images, once", say)

    return load_reference(network, data, measure).statistics


def counted(parts: Iterable[Measured], total: int, what: str, say: Callable[[str], None]) -> Iterator[Measured]:
    """The parts, counted by a bar on a terminal, and by lines that `say` is told elsewhere."""
    with ProgressBar(what, total, "images", say) as progress:
        for part in parts:
            yield part
            progress.advance(part.moments.n)


def measure_images(network: FeatureNetwork, data: ImageData, chunk: Chunk, keep: list[int]) -> Measured:
    """One chunk of the real images."""
    # A range as a slice, which reads what lies together at once.
    keys = (slice(batch.start, batch.stop) if isinstance(batch, range) else list(batch) for batch in chunk)
    batches = (compute_features(network, torch.tensor(data.images[key])) for key in keys)
    return combine((measured([features], keep) for features in batches), sum(map(len, chunk)))


def cache_stem(network: FeatureNetwork, data: ImageData) -> str:
    """How the names of files begin that hold what this network makes of these images."""
    return f"{network.get_name()}-{weights_digest(network)[:16]}-{data.checksum[:16]}-v{REFERENCE_VERSION}"


def load_reference(
    network: FeatureNetwork, data: ImageData, measure: MeasureChunks, *, features: bool = False
) -> Reference:
    """The reference of a data set, by both checksums, data's and network's, from the cache; else measured once.

    What is damaged there is measured again.

    Raises UserError for features that are not finite, of which nothing is cached.
    """
    folder, stem = cache_dir("reference"), cache_stem(network, data)
    statistics, rows = folder / f"{stem}.npz", folder / f"{stem}.npy"
    with locked(folder / f"{stem}.lock"):
        if not sealed(statistics) or (features and not sealed(rows)):
            parts = measure(cut_into_chunks(len(data.images), REFERENCE_BATCH), [0] if features else [])
            _save(statistics, _measure_all(parts, len(data.images), rows if features else None))
            for path in [statistics, *([rows] if features else [])]:
                seal(path)
    with np.load(statistics, allow_pickle=False) as saved:
        found = {"mu": saved["mu"], "sigma": saved["sigma"]}
    if not all(np.isfinite(value).all() for value in found.values()):
        raise UserError(f"{statistics}: what is cached of {data.name} is not finite; remove it and measure again")
    # Mapped "c", copy on write: torch warns of an array that it may not write to.
    mapped = torch.from_numpy(np.load(rows, mmap_mode="c", allow_pickle=False)) if features else None
    return Reference(found, mapped)


def _save(path: Path, whole: Measured) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, mu=whole.moments.mean, sigma=whole.moments.covariance())

    replace_atomically(path, write)


def _measure_all(parts: Iterable[Measured], n: int, rows: Path | None) -> Measured:
    """All n images; their features go to the file `rows` as they come."""
    if rows is None:
        whole = combine(parts, n)
        whole.require_finite("real images")
        return whole
    wholes = list[Measured]()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            wholes.append(combine(_written(parts, n, file, temporary.parent), n))
        wholes[0].require_finite("real images")

    replace_atomically(rows, write)
    return wholes[0]


def _written(parts: Iterable[Measured], n: int, file: BinaryIO, folder: Path) -> Iterator[Measured]:
    """The parts less their features, which go to a .npy file; by plain writes, for a map's would fill the memory."""
    for part in parts:
        (features,) = part.kept
        if file.tell() == 0:
            free_space(folder, n * features[0].nbytes)
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, features.shape[1])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(features.tobytes())
        yield part._replace(kept=[])
