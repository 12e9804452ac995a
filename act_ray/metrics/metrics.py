"""The metrics of `act-ray evaluate`: to add one, write its function in a file of its own and enter it in METRICS."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch

from act_ray.errors import UserError, nearest
from act_ray.metrics.frechet import fid
from act_ray.metrics.inception_score import inception_score
from act_ray.metrics.kernel_distance import kernel_distance
from act_ray.metrics.moments import Measured
from act_ray.metrics.precision_recall import precision_recall
from act_ray.metrics.reference import Reference

OUTPUTS = ("features", "logits")  # of a feature network, in their order
NETWORKS = ("inception", "self_supervised", "classifier")  # eval.features


@dataclass(frozen=True)
class Metric:
    """What a metric is called in a table, its function, and what that is given.

    takes: "moments": (Moments of the samples' features, Statistics of the real images'); "features": (those of the
    samples [n,d], of the real images [m,d]); "logits": (those of the samples [n,classes]) and nothing of real images.
    The function returns the values by their names in evaluations.jsonl. networks: the feature networks that it allows.
    """

    title: str
    function: Callable[..., dict[str, float]]
    takes: Literal["moments", "features", "logits"]
    networks: tuple[str, ...] = NETWORKS


METRICS = {
    "fid": Metric("Frechet distance", fid, "moments"),
    "is": Metric("Inception score", inception_score, "logits", networks=("inception",)),
    "kid": Metric("kernel distance", kernel_distance, "features"),
    "prc": Metric("precision and recall", precision_recall, "features"),
}


def parse_metrics(text: str) -> list[str]:
    """The names in "fid,kid". Raises UserError for one that is not in METRICS."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METRICS:
            raise UserError(f"--metrics {text}: no metric '{name}'; {nearest(name, METRICS)}")
    return names


def check_network(asked: Collection[str], network: str) -> None:
    """Raises UserError for a metric that does not allow this feature network."""
    for name in asked:
        if network not in METRICS[name].networks:
            allowed = " or ".join(METRICS[name].networks)
            raise UserError(
                f"--metrics {name}: the {METRICS[name].title} needs --features {allowed}, not {network}; leave one out"
            )


def takes(asked: Collection[str], what: str) -> bool:
    """Whether a metric that is asked for takes "moments", "features" or "logits"."""
    return any(METRICS[name].takes == what for name in asked)


def compares(asked: Collection[str]) -> bool:
    """Whether a metric that is asked for takes anything of the real images."""
    return takes(asked, "moments") or takes(asked, "features")


def kept_outputs(asked: Collection[str]) -> list[int]:
    """Which of OUTPUTS the samples must be measured with, as indices."""
    return [index for index, output in enumerate(OUTPUTS) if takes(asked, output)]


def compute(asked: Collection[str], samples: Measured, reference: Reference | None) -> dict[str, float]:
    """The metrics asked for, in METRICS' order.

    samples: measured with `kept_outputs`, which are taken out of it. reference: None where nothing `compares`. Raises
    UserError for features that are not finite.
    """
    samples.require_finite("samples")
    outputs = {OUTPUTS[i]: torch.from_numpy(x) for i, x in zip(kept_outputs(asked), samples.kept, strict=True)}
    samples.kept.clear()
    names, found = [name for name in METRICS if name in asked], dict[str, float]()
    for position, name in enumerate(names):
        metric = METRICS[name]
        if metric.takes == "logits":
            found |= metric.function(outputs["logits"])
        elif reference is None:
            raise ValueError(f"{name} needs real images")
        elif metric.takes == "features":
            found |= metric.function(outputs["features"], reference.features)
        else:
            found |= metric.function(samples.moments, reference.statistics)
        # 50,000 logits are 200 MB: an output goes as soon as nothing needs it.
        outputs = {output: x for output, x in outputs.items() if takes(names[position + 1 :], output)}
    return found
