"""An export's folder, whole or not at all: what it may replace, and whether others make our samples of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from act_ray import jsonfile
from act_ray.core.consistency import Preconditioned, one_step
from act_ray.errors import UserError
from act_ray.export import onnx_graph
from act_ray.export.card import GRAPH, Format, provenance, shareable_settings, write_card
from act_ray.files import publish
from act_ray.generators.class_names import NAMES, class_names
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.sampling import NOISE_SEED
from act_ray.yamlfile import write_yaml

TOLERANCE = 1e-4  # of samples in [-1, 1], against our own
COMPARED = 3  # samples
OURS = {"README.md", "config.yaml", "model_index.json", "unet", "scheduler", GRAPH, f"{GRAPH}.data", NAMES}


def write_export(generator: Generator, dst: str, kind: Format, license: str, overwrite: bool) -> float:
    """Write the folder `dst`; returns the largest difference of its samples from our own.

    Both formats are float32. Raises UserError for a model that the format cannot express, and for a `dst` in the way.
    """
    require_exportable(generator, kind)
    folder = free_folder(dst, overwrite)
    aside = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        aside.mkdir(parents=True)
        difference = _write_weights(generator, kind, aside)
        if not difference <= TOLERANCE:
            raise UserError(f"--format {kind}: its samples differ from act_ray's by {difference:.1e}; nothing written")
        (aside / "README.md").write_text(write_card(generator, folder.name, kind, license, difference))
        (aside / "config.yaml").write_text(write_yaml(shareable_settings(generator)))
        if names := class_names(generator):
            (aside / NAMES).write_text(jsonfile.text(names))
        _put_in_place(aside, folder)
    except OSError as error:
        raise UserError(f"{dst}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return difference


def require_exportable(generator: Generator, kind: Format) -> None:
    """Refuse what is no consistency model, or none that the format can express; before anything is computed."""
    if not generator.makes_images:
        raise UserError(f"{generator.origin}: {generator.unusable}; such a network cannot be exported")
    if generator.kind is Kind.DENOISER:
        raise UserError(
            f"{generator.origin}: a denoiser, which no pipeline of diffusers expresses; export a consistency model, "
            "such as of a run with distill.teacher set to this"
        )
    if kind == "diffusers" and generator.cfg.schedule.time_input != "log":
        raise UserError(
            f"{generator.origin}: schedule.time_input = {generator.cfg.schedule.time_input}, and "
            "ConsistencyModelPipeline tells the network 250 ln t; use --format onnx"
        )
    if kind == "onnx":
        onnx_graph.require_libraries()


def free_folder(dst: str, overwrite: bool) -> Path:
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


def _put_in_place(aside: Path, folder: Path) -> None:
    """Rename the finished folder; an earlier export is there until then."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    publish(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- weights, compared


def _write_weights(generator: Generator, kind: Format, folder: Path) -> float:
    """Write the network and run it as others do; the largest difference of its samples from our own."""
    f, (z, labels) = _build_float32(generator), _draw_inputs(generator)
    expected = one_step(f, z, generator.schedule, labels).clamp(-1, 1)
    if kind == "onnx":
        metadata = {**provenance(generator), "config": write_yaml(shareable_settings(generator))}
        onnx_graph.write_graph(f, z, labels, folder, metadata)
        images = onnx_graph.run_graph(folder, z, labels)
    else:
        from act_ray.export import diffusers_pipeline

        diffusers_pipeline.write_pipeline(f, generator.clip, folder)
        images = diffusers_pipeline.run_pipeline(folder, labels, COMPARED, _seeded())
    return float((images - expected).abs().max())


def _build_float32(generator: Generator) -> Preconditioned:
    """f on the CPU, without autocast."""
    train = generator.cfg.train.model_copy(update={"precision": "fp32"})
    return replace(generator, cfg=generator.cfg.model_copy(update={"train": train})).build(torch.device("cpu"))


def _draw_inputs(generator: Generator) -> tuple[Tensor, Tensor | None]:
    """z [n,C,H,W] as diffusers' pipeline draws it, and labels [n] where the model takes them."""
    z, classes = torch.randn(COMPARED, *generator.shape, generator=_seeded()), generator.cfg.model.num_classes
    return z, None if classes is None else torch.arange(COMPARED) % classes


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(NOISE_SEED)
