"""A trained network from wherever it is; each kind of place has a module here, imported only when it is one."""

from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch

from act_ray.errors import UserError
from act_ray.generators.generator import Generator, Kind

SUFFIXES = (".ckpt", ".pt", ".pth")  # of single files of weights


def read_generator(
    location: str,
    *,
    which: Literal["best", "last"] = "best",
    weights: Literal["ema", "teacher", "model"] | None = None,
    image_size: int | None = None,
    head_width: int | None = None,
    kind: Literal["consistency", "denoiser"] | None = None,
    clip: bool | None = None,
) -> Generator:
    """The generator of a run's folder (or URI), a checkpoint's, a diffusers folder, the ACT authors' .ckpt, or OpenAI's
    .pt. Raises UserError for anything else.

    which, weights: of a run; weights = None takes those that its score is of. image_size, head_width, kind: what
    OpenAI's .pt may not say, see `openai.read_openai`.
    clip: clamp its answers to [-1, 1] or not, whatever its files say.
    """
    generator = _read(location.rstrip("/"), which, weights, image_size, head_width, kind)
    if weights is not None and generator.step is None:
        raise UserError(f"--weights {weights}: only for act_ray's runs; {location} holds one set; leave it out")
    return generator if clip is None else replace(generator, clip=clip)


def _read(
    location: str,
    which: Literal["best", "last"],
    weights: Literal["ema", "teacher", "model"] | None,
    image_size: int | None,
    head_width: int | None,
    kind: str | None,
) -> Generator:
    local = None if "://" in location else Path(location).expanduser()
    if local is not None and not local.exists():
        raise UserError(f"{location}: no such file or folder; give a run, a checkpoint or a model's folder")
    if local is not None and local.suffix in SUFFIXES and local.is_file():
        return _read_file(local, image_size, head_width, None if kind is None else Kind(kind))
    _refuse_openai_options(location, head_width, kind)
    from act_ray.generators import act_ray_run

    if local is None:
        return act_ray_run.read_run(location, which, weights)
    if (local / "model_index.json").exists() or (local / "config.json").exists():  # as diffusers writes them
        from act_ray.generators.diffusers_folder import read_diffusers_folder

        return read_diffusers_folder(local)
    if act_ray_run.is_checkpoint(local):
        return act_ray_run.read_checkpoint(local.resolve(), weights)
    return act_ray_run.read_run(str(local), which, weights)


def _read_file(path: Path, image_size: int | None, head_width: int | None, kind: Kind | None) -> Generator:
    """The ACT authors' Lightning file, or the state dict of OpenAI's UNetModel."""
    from act_ray.generators import authors, openai

    state = _load_state_dict(path)
    if authors.is_authors(state):
        _refuse_openai_options(str(path), head_width, kind)
        return authors.read_authors(path, state)
    if openai.is_openai(state):
        return openai.read_openai(path, state, image_size, head_width, kind)
    raise UserError(f"{path}: neither the ACT authors' checkpoint nor a state dict of OpenAI's UNetModel")


def _refuse_openai_options(location: str, head_width: int | None, kind: str | None) -> None:
    for option, value in (("--head-width", head_width), ("--kind", kind)):
        if value is not None:
            raise UserError(f"{option} {value}: only for OpenAI's .pt; {location} says it itself; leave it out")


def _load_state_dict(path: Path) -> dict[str, Any]:
    """A file's state dict, or the one within a Lightning file; nothing in it is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        keep = "torch.save(torch.load(FILE, weights_only=False)['state_dict'], FILE)"
        raise UserError(
            f"{path}: holds more than tensors; where you trust it, keep the weights alone: {keep}"
        ) from None
    except Exception as error:  # torch's reader ends in whatever the bytes lead it to
        raise UserError(f"{path}: not a file of weights ({type(error).__name__}); fetch it again") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    return state if isinstance(state, dict) else {}
