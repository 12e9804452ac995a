"""Scores of a set of samples: torch-fidelity's metrics, diversity, and the finite number that a search minimises."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import (
    KEY_METRIC_F_SCORE,
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    prc_features_to_metric,
)

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData
from act_ray.data.store import free_space
from act_ray.files import cache_dir, locked, replace_atomically
from act_ray.metrics.features import features_of, weights_digest
from act_ray.metrics.moments import Moments, Part, gather, moments, part_of, plan

WORST = 1e9  # the score of a run without a finite one: NaN and inf break schedulers and searchers
DIVERSITY_IMAGES = 256
REFERENCE_BATCH = 250  # of real images; not eval.batch, for all runs on the data share what is cached
REFERENCE_VERSION = 2
BLOCK_BYTES = 1 << 28  # of distances; precision and recall hold about six such blocks at a time
KID_SUBSET: int = DEFAULTS["kid_subset_size"]

Statistics = dict[str, np.ndarray]


# ---------------------------------------------------------------------------------------------- torch-fidelity's


def frechet_distance(features: Tensor, reference: Statistics) -> float:
    """||mu1 - mu2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) by torch-fidelity; features [n,d]. WORST if not finite."""
    if not torch.isfinite(features).all():
        return WORST
    return frechet_of_moments(moments(features), reference)


def frechet_of_moments(of: Moments, reference: Statistics) -> float:
    """The same, of features that are known by their moments alone."""
    if not np.isfinite(of.outer).all():
        return WORST
    theirs = {name: np.asarray(value, np.float64) for name, value in reference.items()}
    return finite(
        float(
            fid_statistics_to_metric({"mu": of.mean, "sigma": of.covariance()}, theirs, verbose=False)[KEY_METRIC_FID]
        )
    )


def inception_score(logits: Tensor) -> dict[str, float]:
    """exp E KL(p(y|x) || p(y)) in ten splits, their mean and deviation (Salimans et al., 2016); logits [n,1008]."""
    out = isc_features_to_metric(logits)
    return {"is": out[KEY_METRIC_ISC_MEAN], "is_std": out[KEY_METRIC_ISC_STD]}


def kernel_distance(features: Tensor, reference: Tensor) -> dict[str, float]:
    """KID (Binkowski et al., 2018): mean and deviation over 100 subsets of `kid_subset`; features [n,d], [m,d]."""
    out = kid_features_to_metric(
        features, reference, kid_subset_size=kid_subset(len(features), len(reference)), verbose=False
    )
    return {"kid": out[KEY_METRIC_KID_MEAN], "kid_std": out[KEY_METRIC_KID_STD]}


def kid_subset(samples: int, images: int) -> int:
    """torch-fidelity's 1,000, or what there is."""
    return min(KID_SUBSET, samples, images)


def precision_recall(features: Tensor, reference: Tensor) -> dict[str, float]:
    """Of the 3-nearest-neighbour manifolds (Kynkaanniemi et al., 2019); features [n,d], [m,d], a block at a time."""
    out = prc_features_to_metric(
        features, reference, save_cpu_ram=True, prc_batch_size=block(max(len(features), len(reference))), verbose=False
    )
    return {
        "precision": out[KEY_METRIC_PRECISION],
        "recall": out[KEY_METRIC_RECALL],
        "f_score": out[KEY_METRIC_F_SCORE],
    }


def block(n: int) -> int:
    """Rows of float32 distances to n others that fit into BLOCK_BYTES; at most torch-fidelity's 10,000."""
    return max(1, min(int(DEFAULTS["prc_batch_size"]), BLOCK_BYTES // (4 * n)))


def finite(score: float | None) -> float:
    """The score, or WORST when there is none or it is not a finite number."""
    return score if score is not None and math.isfinite(score) and score < WORST else WORST


# ---------------------------------------------------------------------------------------------- reference


@dataclass(frozen=True)
class Reference:
    """What samples are compared with: moments of all real images' features, and the features where they were asked for.

    features: float32 [n,d], mapped from the cache.
    """

    statistics: Statistics
    features: Tensor | None


def metrics(asked: Collection[str], samples: Part, reference: Reference | None) -> dict[str, float]:
    """Those of fid, is, kid and prc that are asked for.

    samples: with the features kept where the reference has them, then with the logits for is, which are taken out.
    """
    found: dict[str, float] = {}
    logits = samples.kept.pop() if "is" in asked else None
    if reference is not None and "fid" in asked:
        found["fid"] = frechet_of_moments(samples.moments, reference.statistics)
    if logits is not None:
        found |= inception_score(torch.from_numpy(logits))
        del logits  # 50,000 of them are 200 MB, and precision and recall are to come
    if reference is not None and reference.features is not None:
        features = torch.from_numpy(samples.kept[0])
        found |= kernel_distance(features, reference.features) if "kid" in asked else {}
        found |= precision_recall(features, reference.features) if "prc" in asked else {}
    return found


def reference_statistics(extractor: FeatureExtractorBase, data: ImageData) -> Statistics:
    """Moments of the whole data set's features, by this process unless the cache has them."""
    return reference(
        extractor, data, lambda chunks, keep: (measure_images(extractor, data, chunk, keep) for chunk in chunks)
    ).statistics


def measure_images(extractor: FeatureExtractorBase, data: ImageData, chunk: list[range], keep: list[int]) -> Part:
    """One chunk of a `plan` over the real images."""
    batches = (features_of(extractor, torch.tensor(data.images[batch.start : batch.stop])) for batch in chunk)
    return gather((part_of([features], keep) for features in batches), sum(map(len, chunk)))


def reference(
    extractor: FeatureExtractorBase,
    data: ImageData,
    measure: Callable[[list[list[range]], list[int]], Iterable[Part]],
    *,
    features: bool = False,
) -> Reference:
    """The reference of a data set, by both checksums, data's and network's, from the cache; else computed once.

    measure: yields the parts of a plan's chunks in order, with the layers of these indices.
    """
    digest = weights_digest(extractor)[:16]
    stem = f"{extractor.get_name()}-{digest}-{data.checksum[:16]}-v{REFERENCE_VERSION}"
    folder = cache_dir("reference")
    statistics, rows = folder / f"{stem}.npz", folder / f"{stem}.npy"
    with locked(folder / f"{stem}.lock"):
        if not statistics.exists() or (features and not rows.exists()):
            parts = measure(plan(len(data.images), REFERENCE_BATCH), [0] if features else [])
            _save(statistics, _compute(parts, len(data.images), rows if features else None))
    with np.load(statistics, allow_pickle=False) as saved:
        found = {"mu": saved["mu"], "sigma": saved["sigma"]}
    # Mapped "c", copy on write: torch warns of an array that it may not write to.
    mapped = torch.from_numpy(np.load(rows, mmap_mode="c", allow_pickle=False)) if features else None
    return Reference(found, mapped)


def _save(path: Path, whole: Moments) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, mu=whole.mean, sigma=whole.covariance())

    replace_atomically(path, write)


def _compute(parts: Iterable[Part], n: int, rows: Path | None) -> Moments:
    """Moments of n images; their features go to the file `rows` as they come."""
    if rows is None:
        return gather(parts, n).moments
    whole = list[Moments]()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            whole.append(gather(_written(parts, n, file, temporary.parent), n).moments)

    replace_atomically(rows, write)
    return whole[0]


def _written(parts: Iterable[Part], n: int, file: BinaryIO, folder: Path) -> Iterator[Part]:
    """The parts less their features, which go to a .npy file; by plain writes, for a map's would fill the memory."""
    for part in parts:
        (features,) = part.kept
        if file.tell() == 0:
            free_space(folder, n * features[0].nbytes)
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, features.shape[1])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(features.tobytes())
        yield Part(part.moments, [])


# ---------------------------------------------------------------------------------------------- diversity


def diversity(samples: Tensor, data: ImageData) -> float:
    """Mean pairwise distance of samples over that of real images; uint8 [n,C,H,W]. About 1 healthy, 0 all alike."""
    index = np.random.default_rng(0).choice(len(data.images), min(DIVERSITY_IMAGES, len(data.images)), replace=False)
    real = torch.from_numpy(data.images[np.sort(index)])
    return spread(samples[:DIVERSITY_IMAGES]) / spread(real)


def spread(images: Tensor) -> float:
    """Mean Euclidean distance over all pairs of images."""
    return float(torch.pdist(images.flatten(1).float()).mean())


def metric_name(cfg: EvalConfig) -> str:
    """What the score is, for tables: metric, features and sample count."""
    kind = "FID" if cfg.features == "inception" else "FD"
    return f"{kind} ({cfg.features} features, {cfg.samples} samples)"
