"""The Frechet distance between two Gaussians with the moments of two sets of features: FID in Inception's."""

import numpy as np
import torch
from torch import Tensor

from act_ray.metrics.moments import Moments, moments
from act_ray.metrics.scores import WORST, finite_or_worst

Statistics = dict[str, np.ndarray]  # "mu" [d] and "sigma" [d,d], as torch-fidelity has them


def frechet_distance(features: Tensor, reference: Statistics) -> float:
    """||mu1 - mu2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) by torch-fidelity; features [n,d]. WORST if not finite."""
    if not torch.isfinite(features).all():
        return WORST
    return frechet_of_moments(moments(features), reference)


def frechet_of_moments(of: Moments, reference: Statistics) -> float:
    """The same, of features that are known by their moments alone; not below 0, where rounding may take it."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if not np.isfinite(of.outer).all():
        return WORST
    real = {name: np.asarray(value, np.float64) for name, value in reference.items()}
    found = fid_statistics_to_metric({"mu": of.mean, "sigma": of.covariance()}, real, verbose=False)
    return max(0.0, finite_or_worst(float(found[KEY_METRIC_FID])))


def fid(samples: Moments, reference: Statistics) -> dict[str, float]:
    """As an entry of METRICS."""
    return {"fid": frechet_of_moments(samples, reference)}
