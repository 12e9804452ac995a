"""Feeding the stored runs to the detector."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from act_ray.collapse.detector import Detector
from act_ray.collapse.record import PruneRecord
from act_ray.collapse.rules import CollapseConfig

Run = dict[str, Any]
RUNS: dict[str, Run] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "collapse" / "traces").glob("*.json"))
}


def feed(
    run: Run,
    cfg: CollapseConfig | None = None,
    *,
    total: int | None = None,
    scale: float = 1.0,
    keep: Callable[[int], bool] = lambda step: True,
    first: int = 0,
    gp_interval: int | None = None,
    score: bool = True,
    diversity: bool = True,
) -> PruneRecord | None:
    """The decision on a stored run, with its steps stretched by `scale` and gp seen only where `keep(step)`."""
    cfg, total = (cfg or CollapseConfig()).beside_penalty(run["w_gp"]), total or round(run["steps"] * scale)
    detector = Detector(cfg, total, gp_interval, run["w_gp"])
    gp, evals = dict(run["gp"]), {step: (fd, div) for step, fd, div in run["evals"]}
    for step, loss in enumerate(run["loss_ct"]):
        if step < first or detector.confirmed or step * scale >= total:
            continue
        detector.observe(round(step * scale), loss, gp.get(step) if keep(step) else None)
        if step + 1 in evals and (step + 1) * scale <= total:
            fd, div = evals[step + 1]
            detector.observe_eval(round((step + 1) * scale), div if diversity else None, fd if score else None)
    return detector.record
