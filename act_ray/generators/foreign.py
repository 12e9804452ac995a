"""Other people's networks as UNet2DModel: diffusers' folders, the ACT authors' .ckpt, OpenAI's .pt."""

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from act_ray.errors import UserError
from act_ray.generators import authors, openai

SUFFIXES = (".ckpt", ".pt", ".pth")
SCHEDULER = "CMStochasticIterativeScheduler"  # what says that a pipeline's network is an f(x, t)
SCHEDULE = {"sigma_min": "t_min", "sigma_max": "t_max", "rho": "rho", "sigma_data": "sigma_data"}  # its names and ours


@dataclass(frozen=True)
class Network:
    """UNet2DModel's arguments and weights, and what its file says of its use."""

    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    schedule: dict[str, Any]  # of the config's section
    unfit: str | None = None  # why it makes no images by itself, of a network for something else
    denoises: bool = False  # whether it may be EDM's D(x, t), told 250 ln t: nothing in the file speaks against it


def read_folder(folder: Path) -> Network:
    """A diffusers pipeline's folder, or a UNet2DModel's; safetensors only. Raises UserError."""
    pipeline, scheduler = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    where = folder / "unet" if pipeline.exists() else folder
    try:
        _check(json.loads((where / "config.json").read_text()), where)
        settings = json.loads(scheduler.read_text()) if scheduler.exists() else {}
        unet, found = UNet2DModel.from_pretrained(
            where, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{where}: not a UNet2DModel with safetensors weights: {str(error).strip()}") from None
    for name in sorted((*found["missing_keys"], *found["unexpected_keys"])):  # diffusers would draw them at random
        which = "lack" if name in found["missing_keys"] else "have an unknown"
        raise UserError(f"{where}: config.json and weights do not belong together: the weights {which} {name}")
    arguments, kind = dict(unet.config), settings.get("_class_name")
    if not isinstance(arguments["sample_size"], int) or arguments["out_channels"] != arguments["in_channels"]:
        raise UserError(f"{where}/config.json: needs square images (sample_size) and out_channels = in_channels")
    if kind != SCHEDULER:
        unfit = f"has {kind or 'no scheduler'}, where {SCHEDULER} is needed"
        return Network(arguments, unet.state_dict(), {}, unfit, denoises=kind is None)
    known = {ours: settings[theirs] for theirs, ours in SCHEDULE.items() if theirs in settings}
    return Network(arguments, unet.state_dict(), known | {"time_input": "log"})


def _check(arguments: dict[str, Any], where: Path) -> None:
    """Refuse a config.json of what act_ray cannot train: it tells a network any real t, and a class by its number."""
    needed = {"_class_name": "UNet2DModel", "time_embedding_type": "positional", "class_embed_type": None}
    for name, value in {"_class_name": None, **arguments}.items():
        if name in needed and value != needed[name]:
            raise UserError(f"{where}/config.json: {name} = {value!r}; needs {needed[name]!r}")
    for name in (*arguments.get("down_block_types", ()), *arguments.get("up_block_types", ())):
        if "Skip" in name:
            raise UserError(f"{where}/config.json: {name}: a block that is also shown the image; not supported")


def read_weights(path: Path, image_size: int | None) -> Network:
    """The ACT authors' released Lightning file, or the state dict of OpenAI's UNetModel. Raises UserError.

    image_size: the side of the images, which the latter does not say.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        keep = "torch.save(torch.load(FILE, weights_only=False)['state_dict'], FILE)"
        raise UserError(
            f"{path}: holds more than tensors; where you trust it, keep the weights alone: {keep}"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a file of weights ({type(error).__name__}); fetch it again") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    try:
        if isinstance(state, dict) and authors.is_released(state):
            return Network(*authors.convert_released(state), {"time_input": "linear"})
        if not isinstance(state, dict) or not openai.is_guided(state):
            raise UserError("neither the ACT authors' checkpoint nor a state dict of OpenAI's UNetModel")
        if image_size is None:
            raise UserError("does not say how large its images are; give --image-size")
        arguments, tensors = openai.convert(state, image_size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if len(state["middle_block.1.qkv.weight"].shape) == 4:  # consistency_models' networks are told 250 ln t
        # Its EDM denoisers (edm_*.pt) and its consistency models (cd_*.pt, ct_*.pt) differ in their names only.
        unfit = "is EDM's denoiser, by its name" if path.name.startswith("edm") else None
        return Network(arguments, tensors, {"time_input": "log"}, unfit, denoises=unfit is not None)
    return Network(arguments, tensors, {}, "is a network of guided-diffusion, which counts steps")
