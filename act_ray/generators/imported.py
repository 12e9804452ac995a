"""A generator of a network that others trained, with the config that is nearest to what its files say."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from act_ray import settings
from act_ray.generators.generator import Generator, Kind
from act_ray.models.diffusers_parts import UNet2DModel
from act_ray.models.unet import ARGUMENTS, FIXED


def imported_generator(
    path: Path,
    arguments: dict[str, Any],
    tensors: dict[str, Tensor],
    schedule: dict[str, Any],
    kind: Kind,
    *,
    unusable: str | None = None,
    clip: bool = False,
) -> Generator:
    """The generator of a UNet2DModel's weights; raises UserError where the config cannot express it.

    arguments: UNet2DModel's; those that are left out have its defaults. schedule: what is known of the config's
    section.
    """
    arguments = dict(meta_unet(arguments).config)
    values: dict[str, Any] = {"schedule": schedule, "model": model_section(arguments)}
    if kind is Kind.DENOISER:
        values["train"] = {"method": "diffusion"}
    channels, size = arguments["in_channels"], arguments["sample_size"]
    return Generator(
        settings.build(values, str(path)),
        (channels, size, size),
        tensors,
        str(path),
        kind,
        unusable=unusable,
        clip=clip,
        name=path.resolve().name,
    )


def meta_unet(arguments: dict[str, Any]) -> UNet2DModel:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return UNet2DModel(**{key: value for key, value in arguments.items() if key in ARGUMENTS})


def model_section(arguments: dict[str, Any]) -> dict[str, Any]:
    """The config's model section for all of UNet2DModel's arguments: each in `unet`, and what act_ray needs to know."""
    unet = {key: _plain(arguments[key]) for key in ARGUMENTS if key not in FIXED}
    return {
        "block_out_channels": unet["block_out_channels"],
        "down": "".join("A" if name.startswith("Attn") else "D" for name in unet["down_block_types"]),
        "up": "".join("A" if name.startswith("Attn") else "U" for name in unet["up_block_types"]),
        "layers_per_block": unet["layers_per_block"],
        "attention_head_dim": unet["attention_head_dim"],
        "norm_num_groups": unet["norm_num_groups"],
        "num_classes": unet["num_class_embeds"],
        "unet": unet,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
