"""Where each run is, for whatever collects the metrics of a Ray cluster (Prometheus, Grafana): after every score."""

from ray.util.metrics import Gauge

from act_ray.metrics.scores import WORST
from act_ray.outcomes import Report

TAGS = ("search", "run")
ABOUT = {
    "step": "steps that are done",
    "images": "images that the generator was trained on",
    "score": "the last score, lower is better",
    "best_score": "the best score so far",
    "diversity": "of the samples, relative to the real images'",
    "seconds": "of training, without scores",
    "flagged": "1 from the step on at which a signature of collapse was found",
}


class Gauges:
    """act_ray_step, act_ray_score, ... of the runs of a search, or of one run: then `search` is empty."""

    def __init__(self, search: str = "") -> None:
        self.search = search
        self.gauges = {name: Gauge(f"act_ray_{name}", about, TAGS) for name, about in ABOUT.items()}

    def show(self, run: str, report: Report) -> None:
        """The report of a run; what it has no value for keeps the one before."""
        for name, gauge in self.gauges.items():
            value = float(report["prune"] is not None) if name == "flagged" else report[name]
            if value is not None and value < WORST:
                gauge.set(value, {"search": self.search, "run": run})
