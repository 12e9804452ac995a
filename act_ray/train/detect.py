"""The collapse detector over a run's rows, as the run itself drives it."""

from collections import deque
from collections.abc import Iterable, Iterator

from act_ray.collapse.detector import Detector
from act_ray.config import Config
from act_ray.runs.rows import Row


def make_detector(cfg: Config) -> Detector:
    """The detector of a run with these settings."""
    loss = cfg.loss
    interval = loss.gp_interval if loss.gp_weight else None
    return Detector(cfg.collapse.beside_penalty(loss.gp_weight), cfg.train.total_steps, interval, loss.gp_weight)


def feed(detector: Detector, metrics: Iterable[Row], scores: Iterable[Row]) -> Iterator[int]:
    """Tell the detector of the rows of metrics.jsonl and scores.jsonl in their order; yields the step of each."""
    waiting = deque(scores)
    for row in metrics:
        while waiting and waiting[0]["step"] <= row["step"]:
            yield _evaluated(detector, waiting.popleft())
        values = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        detector.observe(row["step"], values.get("loss_ct"), values.get("gp"), values)
        yield row["step"]
    for row in waiting:
        yield _evaluated(detector, row)


def _evaluated(detector: Detector, row: Row) -> int:
    diversity, step = row["diversity"], int(row["step"])
    score = row["score"]
    detector.observe_eval(
        step, None if diversity is None else float(diversity), None if score is None else float(score)
    )
    return step
