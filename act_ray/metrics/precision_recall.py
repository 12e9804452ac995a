"""Precision and recall of the 3-nearest-neighbour manifolds, torch-fidelity's."""

from torch import Tensor

from act_ray.metrics.moments import require_finite

BLOCK_BYTES = 1 << 28  # of distances; about six such blocks are held at a time
MOST_ROWS = 10_000  # of a block: torch-fidelity's default


def precision_recall(samples: Tensor, real: Tensor) -> dict[str, float]:
    """Kynkaanniemi et al., 2019; features [n,d], [m,d]. Raises UserError for features that are not finite."""
    from torch_fidelity.metric_prc import (
        KEY_METRIC_F_SCORE,
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    require_finite(samples, "samples")
    require_finite(real, "real images")
    rows = block_rows(max(len(samples), len(real)))
    found = prc_features_to_metric(samples, real, save_cpu_ram=True, prc_batch_size=rows, verbose=False)
    return {
        "precision": found[KEY_METRIC_PRECISION],
        "recall": found[KEY_METRIC_RECALL],
        "f_score": found[KEY_METRIC_F_SCORE],
    }


def block_rows(n: int) -> int:
    """Rows of float32 distances to n others that fit into BLOCK_BYTES; at most MOST_ROWS."""
    return max(1, min(MOST_ROWS, BLOCK_BYTES // (4 * n)))
