"""The collapse detector over a run's rows, as the run itself drives it."""

from collections.abc import Sequence

from act_ray.collapse.detector import Detector
from act_ray.collapse.record import PruneRecord
from act_ray.config import Config
from act_ray.runs.rows import Row


def make_detector(cfg: Config) -> Detector:
    """The detector of a run with these settings."""
    loss = cfg.loss
    interval = loss.gp_interval if loss.gp_weight else None
    return Detector(cfg.collapse.beside_penalty(loss.gp_weight), cfg.train.total_steps, interval, loss.gp_weight)


def detect(cfg: Config, metrics: Sequence[Row], scores: Sequence[Row]) -> PruneRecord | None:
    """What the detector finds in the rows of metrics.jsonl and scores.jsonl."""
    detector = make_detector(cfg)
    waiting = list(scores)
    for row in metrics:
        while waiting and waiting[0]["step"] <= row["step"]:
            _evaluated(detector, waiting.pop(0))
        values = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        detector.observe(row["step"], values.get("loss_ct"), values.get("gp"), values)
    for row in waiting:
        _evaluated(detector, row)
    return detector.record


def _evaluated(detector: Detector, row: Row) -> None:
    diversity = row["diversity"]
    detector.observe_eval(row["step"], None if diversity is None else float(diversity), float(row["score"]))
