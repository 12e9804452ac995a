"""The finite number that a search minimises, its name, and the features that it is measured in."""

import math
from pathlib import Path

from act_ray.config import Config, EvalConfig
from act_ray.weight_files import INCEPTION

WORST = 1e9  # the score of a run without a finite one: NaN and inf break schedulers and searchers


def finite_or_worst(score: float | None) -> float:
    """The score, or WORST when there is none or it is not a finite number."""
    return score if score is not None and math.isfinite(score) and score < WORST else WORST


def metric_name(cfg: EvalConfig) -> str:
    """What the score is, for tables: metric, features and sample count."""
    if cfg.features == "none":
        return "no score"
    kind = "FID" if cfg.features == "inception" else "FD"
    return f"{kind} ({cfg.features} features, {cfg.samples} samples)"


def inception_file(cfg: EvalConfig) -> Path:
    """Where InceptionV3's weights are looked for: as configured, or in torch hub's folder."""
    return Path(cfg.inception_weights or INCEPTION.path).expanduser()


def resolve_features(cfg: Config) -> Config:
    """eval.features = auto as what it is on this machine, so that all workers, and a resumed run, have the same."""
    if cfg.eval.features != "auto":
        return cfg
    features = "inception" if inception_file(cfg.eval).exists() else "self_supervised"
    evaluation = cfg.eval.model_copy(update={"features": features})
    return cfg.model_copy(update={"eval": evaluation})
