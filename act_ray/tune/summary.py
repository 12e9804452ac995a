"""What a search ends with: the ranked table, the compute saved, and the picture of the best trial's samples."""

import json
import shlex
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich import box
from rich.console import Console
from rich.table import Table

from act_ray.config import Config
from act_ray.data.shards import open_data
from act_ray.metrics.scores import WORST, finite
from act_ray.pictures import grid_image
from act_ray.runs.folder import RunFolder, grid_name
from act_ray.tune.experiment import COMPLETED, FAILED, PRUNED, SCHEDULER, Experiment, TrialRecord

WIDTH = 180


def ranked(experiment: Experiment) -> list[TrialRecord]:
    """Trials by their best evaluation, whose checkpoint is kept; failed ones last."""

    def key(trial: TrialRecord) -> tuple[bool, float]:
        return trial.ended == FAILED, trial.last["best_score"] if trial.last else WORST

    return sorted(experiment.trials.values(), key=key)


def table(experiment: Experiment, metric: str) -> Table:
    """One row per trial: parameters, score, steps run of steps planned, and why it ended."""
    names = list(experiment.space.file.parameters)
    out = Table(
        box=box.SIMPLE_HEAD,
        title=f"{metric}, lower is better; ranked by the best evaluation, whose checkpoint is kept",
        title_justify="left",
    )
    for heading in ("rank", "trial", *names, "best", "last", "steps", "why it ended"):
        out.add_column(heading, overflow="fold", no_wrap=heading != "why it ended")
    for rank, trial in enumerate(ranked(experiment), 1):
        last = trial.last or {"score": WORST, "best_score": WORST, "step": 0}
        values = [number(trial.plan.values[name]) for name in names]
        steps = f"{last['step']:,} of {trial.total:,}"
        scores = [number(last["best_score"]), number(last["score"])]
        out.add_row(str(rank), trial.plan.name, *values, *scores, steps, why(trial))
    return out


def why(trial: TrialRecord) -> str:
    match trial.ended:
        case "completed":
            showed = trial.last["pruned_by"] if trial.last else ""  # only with collapse.action=record
            return "ran to its end" + (f"; recorded: {trial.last['prune_reason']}" if trial.last and showed else "")
        case "pruned":
            return f"collapse: {trial.why}"
        case "scheduler":
            return trial.why
        case "failed":
            return f"failed: {trial.why}"
    return "not ended"


def saved(experiment: Experiment) -> str:
    """Compute not spent on trials that were stopped: steps planned minus steps run, at each trial's own speed."""
    planned = run = 0
    by = {PRUNED: [0, 0.0], SCHEDULER: [0, 0.0]}
    for trial in experiment.trials.values():
        done = trial.last["step"] if trial.last else 0
        planned, run = planned + trial.total, run + done
        if trial.ended in by:
            speed = trial.last["seconds"] / done if trial.last and done else 0.0
            by[trial.ended][0] += trial.total - done
            by[trial.ended][1] += (trial.total - done) * speed
    workers = max(1, experiment.options["workers_per_trial"])
    parts = [
        f"{steps:,} by {label} (about {seconds * workers / 60:.1f} worker-minutes)"
        for label, (steps, seconds) in (("collapse pruning", by[PRUNED]), ("ASHA", by[SCHEDULER]))
        if steps
    ]
    spared = sum(int(steps) for steps, _ in by.values())
    what = "; ".join(parts) if parts else "no trial was stopped early"
    return f"compute saved: {spared:,} of {planned:,} planned steps ({spared / max(planned, 1):.0%}): {what}"


def best_picture(experiment: Experiment) -> Path | None:
    """best.png: real images beside one-step samples of the best trial at its best evaluation; None without samples."""
    best = experiment.best
    if best is None:
        return None
    run = RunFolder(experiment.trial_location(best.plan), scratch="views")
    run.fetch_root("samples")
    scores = [row for row in run.rows("scores.jsonl") if (run.path / "samples" / grid_name(row["step"])).exists()]
    if not scores:
        return None
    step = min(scores, key=lambda row: finite(float(row["score"])))["step"]
    with Image.open(run.path / "samples" / grid_name(step)) as opened:
        samples = opened.convert("RGB")
    real = real_grid(best.plan.config)
    gap, top = 16, 24
    canvas = Image.new("RGB", (real.width + gap + samples.width, top + max(real.height, samples.height)), "white")
    canvas.paste(real, (0, top))
    canvas.paste(samples, (real.width + gap, top))
    pen = ImageDraw.Draw(canvas)
    steps = "" if best.plan.config.train.method == "diffusion" else ", one step"
    pen.text((4, 6), "real images", fill="black")
    pen.text((real.width + gap + 4, 6), f"trial {best.plan.name}{steps}, after {step:,} steps", fill="black")
    path = experiment.dir.path / "best.png"
    canvas.save(path)
    return path


def real_grid(cfg: Config) -> Image.Image:
    """As many real images as the sample grids hold."""
    data = open_data(cfg.data.path)
    index = np.random.default_rng(0).choice(len(data.images), min(cfg.eval.grid, len(data.images)), replace=False)
    return grid_image(np.asarray(data.images[np.sort(index)]))


def conclude(experiment: Experiment, metric: str) -> None:
    """Print the table, the compute saved and where everything is; write table.txt and best.png."""
    shown, counts = table(experiment, metric), [t.ended for t in experiment.trials.values()]
    Console(width=WIDTH, soft_wrap=False).print(shown)
    ended = ", ".join(
        f"{counts.count(how)} {label}"
        for how, label in ((COMPLETED, "ran to their end"), (PRUNED, "collapsed"), (SCHEDULER, "stopped by ASHA"),
                           (FAILED, "failed"), ("", "not ended"))
        if counts.count(how)
    )  # fmt: skip
    lines = [f"{len(counts)} trials: {ended}", saved(experiment)]
    picture = best_picture(experiment)
    best = experiment.best
    if best is not None and best.reports:
        at = experiment.trial_location(best.plan)
        lines.append(
            f"best: {best.plan.name}, score {best.reports[-1]['best_score']:.4g}, checkpoints in {at}/checkpoints"
        )
        sets = " ".join(f"--set {argument(*item)}" for item in rerun_settings(experiment, best).items())
        lines.append(f"run it again: python -m act_ray.train --preset {experiment.space.file.preset} {sets}")
    if picture is not None:
        lines.append(f"samples: {picture}")
    lines.append(f"everything: {experiment.location}")
    print("\n".join(lines), flush=True)
    with (experiment.dir.path / "table.txt").open("w") as file:
        Console(width=WIDTH, file=file).print(shown)
        file.write("\n".join(lines) + "\n")
    experiment.dir.push_root()


def rerun_settings(experiment: Experiment, trial: TrialRecord) -> dict[str, object]:
    """The overrides that give the trial again."""
    return {**experiment.space.file.set, **trial.plan.values, "train.seed": trial.plan.config.train.seed}


def argument(name: str, value: object) -> str:
    """NAME=VALUE as a shell takes it."""
    return shlex.quote(f"{name}={value if isinstance(value, str) else json.dumps(value)}")


def number(value: object) -> str:
    if isinstance(value, float):
        return "none" if value >= WORST else f"{value:.4g}"
    return str(value)
