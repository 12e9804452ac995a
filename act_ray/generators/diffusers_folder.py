"""A diffusers pipeline's folder, or a UNet2DModel's, as a generator."""

from pathlib import Path
from typing import Any

from act_ray import jsonfile
from act_ray.errors import UserError, nearest
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.imported import imported_generator
from act_ray.models.diffusers_parts import UNet2DModel
from act_ray.models.unet import ARGUMENTS

SCHEDULER = "CMStochasticIterativeScheduler"  # what says that a pipeline's network is an f(x, t)
SCHEDULER_NAMES = {"t_min": "sigma_min", "t_max": "sigma_max", "rho": "rho", "sigma_data": "sigma_data"}  # of ours
SUPPORTED = {"_class_name": "UNet2DModel", "time_embedding_type": "positional", "class_embed_type": None}


def read_diffusers_folder(folder: Path) -> Generator:
    """The network of a pipeline's or a model's folder, safetensors only.

    Only CMStochasticIterativeScheduler says that it is a consistency model; its `clip_denoised` is followed. Raises
    UserError for what is no UNet2DModel that act_ray can run.
    """
    scheduler = folder / "scheduler" / "scheduler_config.json"
    where = folder / "unet" if (folder / "model_index.json").exists() else folder
    try:
        _require_supported(
            jsonfile.checked(jsonfile.parse((where / "config.json").read_bytes()), dict[str, Any]), where
        )
        settings: dict[str, Any] = jsonfile.parse(scheduler.read_bytes()) if scheduler.exists() else {}
        unet, found = UNet2DModel.from_pretrained(
            where, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{where}: not a UNet2DModel with safetensors weights: {str(error).strip()}") from None
    for name in sorted((*found["missing_keys"], *found["unexpected_keys"])):  # diffusers would draw them at random
        which = "lack" if name in found["missing_keys"] else "have an unknown"
        raise UserError(f"{where}: config.json and weights do not belong together: the weights {which} {name}")
    arguments, tensors, name = dict(unet.config), unet.state_dict(), settings.get("_class_name")
    if not isinstance(arguments["sample_size"], int) or arguments["out_channels"] != arguments["in_channels"]:
        raise UserError(f"{where}/config.json: needs square images (sample_size) and out_channels = in_channels")
    if name != SCHEDULER:
        kind = Kind.UNKNOWN if name is None else Kind.OTHER
        reason = f"has {name or 'no scheduler'}, where {SCHEDULER} is needed"
        return imported_generator(folder, arguments, tensors, {}, kind, unusable=reason)
    known = {ours: settings[theirs] for ours, theirs in SCHEDULER_NAMES.items() if theirs in settings}
    clip = settings.get("clip_denoised", True)  # diffusers' default
    return imported_generator(
        folder, arguments, tensors, known | {"time_input": "log"}, Kind.CONSISTENCY, clip=bool(clip)
    )


def _require_supported(config: dict[str, Any], where: Path) -> None:
    """Refuse a config.json of what act_ray cannot run: it tells a network any real t, and a class by its number."""
    for name, value in {"_class_name": None, **config}.items():
        if name in SUPPORTED and value != SUPPORTED[name]:
            raise UserError(f"{where}/config.json: {name} = {value!r}; needs {SUPPORTED[name]!r}")
        if name not in ARGUMENTS and not name.startswith("_"):
            raise UserError(f"{where}/config.json: {name}: no argument of UNet2DModel; {nearest(name, ARGUMENTS)}")
    for name in (*config.get("down_block_types", ()), *config.get("up_block_types", ())):
        if "Skip" in name:
            raise UserError(f"{where}/config.json: {name}: a block that is also shown the image; not supported")
