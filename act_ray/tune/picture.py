"""best.png: real images beside the best trial's samples."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from act_ray.config import Config
from act_ray.data.shards import open_data
from act_ray.pictures import grid_image
from act_ray.runs.folder import RunFolder, grid_name
from act_ray.tune.experiment import Experiment

GAP, TOP = 16, 24  # pixels between the two grids, and above them


def draw_best(experiment: Experiment) -> Path | None:
    """Write best.png, with the samples that the best score was taken of; None where there is no score."""
    best = experiment.best
    if best is None or best.best_step is None:
        return None
    run = RunFolder(experiment.trial_location(best.plan), scratch="views")
    run.fetch_root("samples")
    grid = run.path / "samples" / grid_name(best.best_step)
    if not grid.exists():
        return None
    with Image.open(grid) as opened:
        samples = opened.convert("RGB")
    real = real_grid(best.plan.config)
    canvas = Image.new("RGB", (real.width + GAP + samples.width, TOP + max(real.height, samples.height)), "white")
    canvas.paste(real, (0, TOP))
    canvas.paste(samples, (real.width + GAP, TOP))
    pen = ImageDraw.Draw(canvas)
    steps = "" if best.plan.config.train.method == "diffusion" else ", one step"
    pen.text((4, 6), "real images", fill="black")
    text = f"trial {best.plan.name}{steps}, after {best.best_step:,} steps"
    pen.text((real.width + GAP + 4, 6), text, fill="black")
    path = experiment.dir.path / "best.png"
    canvas.save(path)
    return path


def real_grid(cfg: Config) -> Image.Image:
    """As many real images as the sample grids hold."""
    data = open_data(cfg.data.path, cfg.data.decode)
    index = np.random.default_rng(0).choice(len(data.images), min(cfg.eval.grid, len(data.images)), replace=False)
    return grid_image(np.asarray(data.images[np.sort(index)]))
