"""The Inception score, torch-fidelity's."""

from torch import Tensor

from act_ray.metrics.moments import require_finite


def inception_score(logits: Tensor) -> dict[str, float]:
    """exp E KL(p(y|x) || p(y)) in ten splits, their mean and deviation (Salimans et al., 2016); logits [n,1008].

    Raises UserError for logits that are not finite.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    require_finite(logits, "samples")
    found = isc_features_to_metric(logits)
    return {"is": found[KEY_METRIC_ISC_MEAN], "is_std": found[KEY_METRIC_ISC_STD]}
