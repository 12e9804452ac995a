"""The functions of the public API: what the commands do, for Python. Mistakes raise UserError, as one line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.metrics.scores import resolve_features

if TYPE_CHECKING:
    import numpy as np

    from act_ray.generators.generator import Generator


def load_config(
    preset: str | None = "usual", changes: Mapping[str, Any] | None = None, *, recipe: str | None = None
) -> Config:
    """The settings of a preset (None: the defaults) with `changes`, such as {"loss.w": 0.5}, on top.

    preset: "usual" is, as for `act-ray train`, digits, or small where `changes` has another data.path.
    recipe: "paper" or "authors", whose choices to take where they differ; None: the preset's.
    """
    name = settings.usual_preset(changes or {}) if preset == "usual" else preset
    config = resolve_features(settings.absolute_paths(settings.load(name, changes, recipe_name=recipe)))
    if config.model.init is None:
        return config
    from act_ray.train.warm_start import adopt_architecture  # imports torch

    return adopt_architecture(config, changes or {})


def train_model(config: Config, folder: str, *, workers: int = 0, gpu: bool | None = None) -> dict[str, Any]:
    """Train in `folder` (a path or URI), or go on there; returns the last report (docs/files.md, result.json).

    Raises UserError where `folder` holds a run of other settings.

    workers: Ray Train workers; 0: this process, without Ray. gpu: None takes a GPU where there is one.
    """
    from act_ray.runs.folder import RunFolder, read_config
    from act_ray.train.preflight import preflight

    location = folder if "://" in folder else os.path.abspath(folder)
    preflight(config, workers)
    run = RunFolder(location)
    if read_config(run) not in (None, config):
        raise UserError(f"{folder}: holds a run of other settings; choose another folder")
    run.forget_stop()
    if workers == 0:
        from act_ray.train.loop import train_here

        return train_here(config, location, gpu)
    from act_ray.ray_cluster import connected, gpu_per_worker, require_shared_storage
    from act_ray.train.ray_workers import fit

    with connected():
        require_shared_storage(location, shared=False)
        return fit(config, location, workers, gpu=gpu_per_worker(workers, gpu))


def run_search(
    space: str,
    folder: str,
    *,
    changes: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    trials: int | None = None,
    workers_per_trial: int = 0,
    concurrent: int | None = None,
) -> list[dict[str, Any]]:
    """Search a space (a shipped one's name, or a YAML file) in the new folder or URI `folder`.

    changes: settings for all trials. recipe: as of load_config, instead of the space's. Returns a row per trial, best
    first (docs/files.md, results.parquet).
    """
    from act_ray.tune.__main__ import DEFAULTS, alone, read_space, run_search
    from act_ray.tune.experiment import Experiment
    from act_ray.tune.results import result_rows

    options = {**DEFAULTS, "workers_per_trial": workers_per_trial, "concurrent": concurrent}
    checked = read_space(space, {"trials": trials, "recipe": recipe}, dict(changes or {}), workers_per_trial)
    location = folder if "://" in folder else os.path.abspath(folder)
    experiment = Experiment.create(location, checked, options)
    with alone(location):
        run_search(experiment, shared_storage=False)
    return result_rows(experiment)


def load_generator(
    location: str,
    *,
    which: Literal["best", "last"] = "best",
    weights: Literal["ema", "teacher", "model"] | None = None,
    image_size: int | None = None,
    head_width: int | None = None,
    kind: Literal["consistency", "denoiser"] | None = None,
    clip: bool | None = None,
) -> Generator:
    """A trained model: a run's folder or URI, a checkpoint, a diffusers folder, the ACT authors' .ckpt, OpenAI's .pt.

    which: checkpoint of a run. weights: None takes those that its score is of (the first of eval.weights).
    image_size, head_width (of attention), kind: of OpenAI's .pt, which may not say them.
    clip: clamp its answers to [-1, 1] at every evaluation; None: as its files say, not for act_ray's runs.
    """
    from act_ray.generators.reading import read_generator

    return read_generator(
        location, which=which, weights=weights, image_size=image_size, head_width=head_width, kind=kind, clip=clip
    )


def sample_images(
    generator: Generator,
    n: int,
    *,
    seed: int | None = None,
    nfe: int | None = None,
    label: int | None = None,
    gpu: bool | None = None,
) -> np.ndarray:
    """`n` images, uint8 [n,C,H,W], as `act-ray sample` draws them.

    seed: None is that of all runs' grids. nfe: network evaluations per image, default 1. label: all of one class.
    """
    import numpy as np

    from act_ray.device import best_device
    from act_ray.generators.levels import plan_levels
    from act_ray.generators.sampling import NOISE_SEED, check_label
    from act_ray.sample.outputs import draw_samples

    check_label(generator, label)
    _, levels = plan_levels(generator, nfe, None)
    batches = draw_samples(
        generator.build(best_device(gpu)),
        generator,
        n,
        batch=min(generator.cfg.eval.batch, generator.cfg.eval.samples),
        seed=NOISE_SEED if seed is None else seed,
        levels=levels,
        label=label,
    )
    return np.concatenate([images for images, _ in batches])


def evaluate_model(
    location: str,
    metrics: Sequence[str] = ("fid",),
    *,
    samples: int = 50_000,
    nfe: Sequence[int] | None = None,
    data: str | None = None,
    features: Literal["auto", "inception", "self_supervised", "classifier"] | None = None,
    workers: int | None = 0,
    gpu: bool | None = None,
) -> list[dict[str, Any]]:
    """Some of fid, is, kid and prc of a trained model: a row for each number of network evaluations in `nfe`.

    nfe: None is one evaluation, or what a diffusion run's ODE takes.

    data: the real images, default those of the run. features: default those of the run. workers: Ray workers; 0: this
    process, without Ray; None: what the cluster has. The rows are those of evaluations.jsonl (docs/files.md).
    """
    from act_ray.evaluate.__main__ import evaluate, load, plan_samplers
    from act_ray.metrics.metrics import check_network, parse_metrics

    asked = parse_metrics(",".join(metrics))
    comparison = load(location, data, asked, {"samples": samples, "features": features}, {})
    check_network(asked, comparison.cfg.eval.features)
    samplers = plan_samplers(comparison.generator, ",".join(map(str, nfe)) if nfe else None, None)
    return [*evaluate(comparison, samplers, workers, gpu)]
