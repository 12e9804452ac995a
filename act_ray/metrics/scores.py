"""Scores of a set of samples: Frechet distance, diversity, and the finite number that a search minimises."""

import math

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from act_ray.data.shards import ImageData
from act_ray.files import cache_dir, locked, replace_atomically
from act_ray.metrics.features import features_of, weights_digest

WORST = 1e9  # the score of a run without a finite one: NaN and inf break schedulers and searchers
DIVERSITY_IMAGES = 256

Statistics = dict[str, np.ndarray]


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> {0..255}, rounded to the nearest."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def frechet_distance(features: Tensor, reference: Statistics) -> float:
    """||mu1 - mu2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) by torch-fidelity; features [n,d]. WORST if not finite."""
    if not torch.isfinite(features).all():
        return WORST
    statistics = fid_features_to_statistics(features)
    return finite(float(fid_statistics_to_metric(statistics, reference, verbose=False)[KEY_METRIC_FID]))


def finite(score: float | None) -> float:
    """The score, or WORST when there is none or it is not a finite number."""
    return score if score is not None and math.isfinite(score) and score < WORST else WORST


def reference_statistics(extractor: FeatureExtractorBase, data: ImageData, batch: int = 250) -> Statistics:
    """Moments of the whole data set's features, computed once; cached by both checksums, data's and network's."""
    name = f"{extractor.get_name()}-{weights_digest(extractor)[:16]}-{data.checksum[:16]}"
    path = cache_dir("reference") / f"{name}.npz"
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            parts = [
                features_of(extractor, torch.tensor(data.images[i : i + batch]))
                for i in range(0, len(data.images), batch)
            ]
            statistics = fid_features_to_statistics(torch.cat(parts))
            replace_atomically(path, lambda temporary: np.savez(open(temporary, "wb"), **statistics))  # noqa: SIM115
    with np.load(path, allow_pickle=False) as saved:
        return {"mu": saved["mu"], "sigma": saved["sigma"]}


def diversity(samples: Tensor, data: ImageData) -> float:
    """Mean pairwise distance of samples over that of real images; uint8 [n,C,H,W]. About 1 healthy, 0 all alike."""
    index = np.random.default_rng(0).choice(len(data.images), min(DIVERSITY_IMAGES, len(data.images)), replace=False)
    real = torch.from_numpy(data.images[np.sort(index)])
    return spread(samples[:DIVERSITY_IMAGES]) / spread(real)


def spread(images: Tensor) -> float:
    """Mean Euclidean distance over all pairs of images."""
    return float(torch.pdist(images.flatten(1).float()).mean())
