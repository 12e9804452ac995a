"""A trained generator in others' formats: diffusers' ConsistencyModelPipeline, or an ONNX graph, with a model card."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline
from diffusers.utils import logging
from torch import Tensor

from act_ray.core.consistency import Preconditioned, one_step
from act_ray.core.options import Schedule
from act_ray.errors import UserError
from act_ray.export import onnx_graph
from act_ray.export.card import GRAPH, LEVELS, Format, card, facts, shareable_settings
from act_ray.files import publish
from act_ray.generators.diffusers_folder import SCHEDULER_NAMES
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.sampling import NOISE_SEED
from act_ray.yamlfile import write_yaml

TOLERANCE = 1e-4  # of samples in [-1, 1], against our own
CHECKED = 3  # samples
OURS = {"README.md", "config.yaml", "model_index.json", "unet", "scheduler", GRAPH, f"{GRAPH}.data"}


def export(source: Generator, dst: str, kind: Format, license: str, overwrite: bool) -> float:
    """Write the folder `dst`, whole or not at all; returns the largest difference of its samples from our own.

    Both formats are float32. Raises UserError for a model that the format cannot express, and for a `dst` in the way.
    """
    check(source, kind)
    folder = target(dst, overwrite)
    aside = folder.with_name(f".{folder.name}.tmp")
    f, (z, labels) = float32(source), noise(source)
    expected = one_step(f, z, source.schedule, labels).clamp(-1, 1)
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        aside.mkdir(parents=True)
        if kind == "onnx":
            about = {**facts(source), "config": write_yaml(shareable_settings(source))}
            onnx_graph.write_graph(f, z, labels, aside, about)
            images = onnx_graph.run_graph(aside, z, labels)
        else:
            write_pipeline(f, aside)
            images = run_pipeline(aside, labels)
        difference = float((images - expected).abs().max())
        if not difference <= TOLERANCE:
            raise UserError(f"--format {kind}: its samples differ from act_ray's by {difference:.1e}; nothing written")
        (aside / "README.md").write_text(card(source, folder.name, kind, license, difference))
        (aside / "config.yaml").write_text(write_yaml(shareable_settings(source)))
        move(aside, folder)
    except OSError as error:
        raise UserError(f"{dst}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return difference


# ---------------------------------------------------------------------------------------------- mistakes


def check(source: Generator, kind: Format) -> None:
    """Refuse what is no consistency model, or none that the format can express; before anything is computed."""
    if not source.makes_images:
        raise UserError(f"{source.origin}: {source.unusable}; such a network cannot be exported")
    if source.kind is Kind.DENOISER:
        raise UserError(
            f"{source.origin}: a denoiser (train.method = diffusion), which no pipeline of diffusers "
            "expresses; export a run of train.method = act, such as one with distill.teacher set to this"
        )
    if kind == "diffusers" and source.cfg.schedule.time_input != "log":
        raise UserError(
            f"{source.origin}: schedule.time_input = {source.cfg.schedule.time_input}, and ConsistencyModelPipeline "
            "tells the network 250 ln t; use --format onnx"
        )
    if kind == "onnx":
        onnx_graph.libraries()


def target(dst: str, overwrite: bool) -> Path:
    """The folder to write. Raises UserError where it holds something, or with `overwrite` anything but an export."""
    if "://" in dst:
        raise UserError(f"{dst}: must be a folder of this machine")
    folder = Path(dst).expanduser().resolve()
    if (folder.exists() and not folder.is_dir()) or folder.suffix == ".onnx":
        raise UserError(f"{dst}: must be a folder, new or empty; files are written into it")
    held = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
    if held and not overwrite:
        raise UserError(f"{dst}: is not empty; --overwrite replaces an earlier export")
    if held - OURS:
        raise UserError(f"{dst}: holds {min(held - OURS)}; --overwrite replaces only what an export wrote")
    return folder


def move(aside: Path, folder: Path) -> None:
    """Put the finished folder in its place; an earlier export is there until then."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    publish(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- our own samples


def float32(source: Generator) -> Preconditioned:
    """f on the CPU, without autocast."""
    train = source.cfg.train.model_copy(update={"precision": "fp32"})
    return replace(source, cfg=source.cfg.model_copy(update={"train": train})).build(torch.device("cpu"))


def noise(source: Generator) -> tuple[Tensor, Tensor | None]:
    """z [n,C,H,W] as the pipeline draws it from `generator()`, and labels [n] where the model takes them."""
    z, classes = torch.randn(CHECKED, *source.shape, generator=generator()), source.cfg.model.num_classes
    return z, None if classes is None else torch.arange(CHECKED) % classes


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(NOISE_SEED)


# ---------------------------------------------------------------------------------------------- diffusers


def write_pipeline(f: Preconditioned, folder: Path) -> None:
    """ConsistencyModelPipeline.save_pretrained: the network, and the scheduler that is f's preconditioning."""
    pipeline = ConsistencyModelPipeline(f.network.unet, scheduler(f.cfg))
    pipeline.save_pretrained(folder)


def scheduler(cfg: Schedule) -> CMStochasticIterativeScheduler:
    """Its f(x, t) is ours, where the network is told 250 ln t; it starts at sigma_max = T."""
    values = {theirs: getattr(cfg, ours) for ours, theirs in SCHEDULER_NAMES.items()}
    low = torch.tensor(cfg.t_min)
    if low**2 - cfg.t_min**2 < 0:  # its last noise is multiplied by the root of this, one term rounded to float32: NaN
        values["sigma_min"] = float(low)
    # clip_denoised would clip between the steps of multistep sampling, which Algorithm 1 does not.
    return CMStochasticIterativeScheduler(num_train_timesteps=LEVELS, clip_denoised=False, **values)


def run_pipeline(folder: Path, labels: Tensor | None) -> Tensor:
    """One-step images in [-1, 1] by diffusers alone, from the noise of `generator()`."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = ConsistencyModelPipeline.from_pretrained(folder, low_cpu_mem_usage=False, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    images: Tensor = pipeline(CHECKED, labels, generator=generator(), output_type="pt").images
    return images * 2 - 1
