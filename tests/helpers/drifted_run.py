"""A run that collapses, without the time that it takes to train one."""

from pathlib import Path

import numpy as np

from act_ray import settings
from act_ray.collapse.detector import Detector
from act_ray.collapse.rules import CollapseConfig
from act_ray.runs.folder import RunFolder


def write_drifted_run(folder: Path, blocks: int = CollapseConfig().blocks) -> None:
    """The rows of a run without penalty that drifts from step 500 on, and what the detector says of it; no weights."""
    folder.mkdir()
    cfg = settings.load("digits", {"loss.gp_weight": 0})
    detector, rng = Detector(CollapseConfig(blocks=blocks), 1200), np.random.default_rng(0)
    rows, run = [], RunFolder(str(folder))
    for step in range(1200):
        row = {"step": step, "loss_ct": 1 + 0.1 * rng.random()}
        if step % 16 == 0:
            row["gp"] = float(np.exp(0.1 * rng.normal() + max(0, step - 500) / 100))
        detector.observe(step, row["loss_ct"], row.get("gp"))
        rows.append(row)
    assert detector.record is not None
    run.write("config.yaml", settings.dump(cfg))
    run.append("metrics.jsonl", rows)
    run.json("prune.json", detector.record.to_dict())
