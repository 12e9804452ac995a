"""The kernel distance (KID in Inception's features), torch-fidelity's."""

from torch import Tensor

from act_ray.metrics.moments import require_finite

SUBSET = 1000  # images in a subset: torch-fidelity's default


def kernel_distance(samples: Tensor, real: Tensor) -> dict[str, float]:
    """KID (Binkowski et al., 2018): mean and deviation over 100 subsets of `subset_size`; features [n,d], [m,d].

    Raises UserError for features that are not finite.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    require_finite(samples, "samples")
    require_finite(real, "real images")
    size = subset_size(len(samples), len(real))
    found = kid_features_to_metric(samples, real, kid_subset_size=size, verbose=False)
    return {"kid": found[KEY_METRIC_KID_MEAN], "kid_std": found[KEY_METRIC_KID_STD]}


def subset_size(samples: int, real: int) -> int:
    """SUBSET, or what there is."""
    return min(SUBSET, samples, real)
