"""Searches as their logs and their trials' folders tell them, made without training."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from act_ray import settings
from act_ray.runs.folder import RunFolder, grid_name
from act_ray.tune.experiment import Experiment
from act_ray.tune.space_files import parse_space
from act_ray.tune.trials import TrialPlan

SPACE: dict[str, Any] = {
    "preset": "digits", "trials": 5, "about": "made up", "set": {"train.total_steps": 400, "eval.every": 100},
    "parameters": {"loss.w": {"choice": [0.75, 0.85, 0.95]}, "optim.lr_g": {"loguniform": [1e-3, 4e-3]}},
}  # fmt: skip
DRIFT = {
    "signature": "drift", "step": 480, "value": 0.4, "threshold": 0.3, "message": "L_CT rose to 0.4, above 0.3",
    "confirmed": 560, "because": "no score was better",
}  # fmt: skip
OPTIONS = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}


def scored(step: int, score: float | None, best: float | None = None, best_step: int | None = None) -> dict[str, Any]:
    """A report of that step, whose score is the best so far unless another is given."""
    return {
        "step": step, "images": 64 * step, "score": score, "best_score": best or score,
        "best_step": best_step or (step if score else None), "diversity": None, "seconds": step / 10,
        "outcome": None, "prune": None,
    }  # fmt: skip


def made_up(folder: Path, **over: Any) -> Experiment:
    """Trials: 0 done, 1 collapsed, 2 waits, 3 postponed, 4 running; each with curves, and sample grids."""
    search = Experiment.create(str(folder), parse_space({**SPACE, **over}, "x"), OPTIONS)
    search.log_state("running")
    for plan, scores in zip(
        search.remaining(), ([90, 60, 40, 30], [80, 50, 95, 99], [120, 100], [70], [85]), strict=False
    ):
        search.log("trial_started", plan)
        for i, score in enumerate(scores, 1):
            flagged = {**DRIFT, "step": 100, "confirmed": None, "because": None} if plan.index == 3 else None
            report = {**scored(100 * i, score, min(scores[:i])), "prune": flagged, "rescues": 0, "given_up": 0}
            search.log("reported", plan, report=report)
        write_run(search, plan, scores)
    search.log("ended", search.plans[0], outcome="completed", reason=None, prune=None)
    search.log("ended", search.plans[1], outcome="pruned", reason=None, prune=DRIFT)
    search.log("waiting", search.plans[2], reason="waits at 50%, behind 2 that promise more")
    search.log("waiting", search.plans[3], reason="waits at 25%, behind 3 that promise more")
    return search


def write_run(search: Experiment, plan: TrialPlan, scores: list[float]) -> RunFolder:
    """A run's folder with a row per step, some of them not finite, a score and a grid at each hundred steps."""
    run = RunFolder(search.trial_location(plan))
    (run.path / "samples").mkdir(parents=True)
    run.write("config.yaml", settings.dump(plan.config))
    run.event("started", step=0, workers=1)
    run.append("metrics.jsonl", [metrics_row(step) for step in range(100 * len(scores))])
    for i, score in enumerate(scores, 1):
        run.append("scores.jsonl", [{"step": 100 * i, "score": score, "diversity": 0.9}])
        Image.new("RGB", (433, 433), (40 * i % 255, 9 * plan.index, 90)).save(run.path / "samples" / grid_name(100 * i))
    run.json("progress.json", {"step": 100 * len(scores) + 7, "total_steps": 400, "steps_per_second": 9.5,
                               "images_per_second": 304.0, "score": scores[-1]})  # fmt: skip
    return run


def metrics_row(step: int) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "loss_ct": 3.0 / (1 + step / 50), "loss_g": 0.7, "loss_d": 1.2}
    if step % 16 == 0:
        row |= {"gp": 1.5 if step != 32 else float("nan"), "loss_gp": 0.45}
    return row


def append_report(search: Experiment, index: int, step: int, score: float) -> None:
    """A new score of a running trial, as the search would log it."""
    samples = search.local_trial(search.plans[index]) / "samples"
    Image.new("RGB", (433, 433)).save(samples / grid_name(step))
    report = {**scored(step, score), "rescues": 0, "given_up": 0}
    search.log("reported", search.plans[index], report=report)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
