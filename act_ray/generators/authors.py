"""The checkpoints that ACT's authors released (PyTorch Lightning files around diffusers networks) as UNet2DModel.

cifar10_fid_6_0.ckpt, imagenet_fid_10_6.ckpt, lsun256_fid_13_0.ckpt. What names and shapes do not say (heads, kind of
time embedding) is in the table below, after the authors' training scripts; all else is diffusers' default. Their
networks are told t itself.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from act_ray.errors import UserError
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.imported import imported_generator, meta_unet

PREFIX = "model_ema.unet."  # the teacher theta^-, which the authors sample from; "model.unet." is the student
SHARED = {"in_channels": 3, "out_channels": 3, "layers_per_block": 2, "norm_num_groups": 32}
RELEASED: dict[tuple[int, ...], dict[str, Any]] = {  # by the channels of their resolutions
    (128, 128, 256, 256): {"sample_size": 32, "attention_head_dim": 8, "blocks": "DADD"},
    (128, 256, 256, 512, 512): {
        "sample_size": 64,
        "attention_head_dim": 16,
        "num_class_embeds": 1000,
        "blocks": "DDADD",
    },
    (128, 128, 256, 256, 512, 512): {
        "sample_size": 256,
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "blocks": "DDDDAD",
    },
}


def is_authors(state: dict[str, Any]) -> bool:
    """Whether a checkpoint's `state_dict` has the names of the authors' Lightning module."""
    return f"{PREFIX}conv_in.weight" in state


def read_authors(path: Path, state: dict[str, Tensor]) -> Generator:
    """The generator of a file's `state_dict`. Raises UserError for what is none of the released networks."""
    try:
        arguments, tensors = convert(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return imported_generator(path, arguments, tensors, {"time_input": "linear"}, Kind.CONSISTENCY)


def convert(state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """UNet2DModel's arguments and float32 state dict of the teacher in the authors' Lightning `state_dict`.

    Of CIFAR-10's six outputs the last three are used. Raises UserError naming the first key that does not fit.
    """
    unet = {key.removeprefix(PREFIX): value.float() for key, value in state.items() if key.startswith(PREFIX)}
    widths: list[int] = []
    while (key := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in unet:
        widths.append(len(unet[key]))
    if tuple(widths) not in RELEASED:
        raise UserError(
            f"{PREFIX}down_blocks: resolutions of widths {widths} are none of the released {list(RELEASED)}"
        )
    arguments = {**SHARED, "block_out_channels": tuple(widths), **RELEASED[tuple(widths)]}
    blocks = arguments.pop("blocks")
    arguments["down_block_types"] = tuple("AttnDownBlock2D" if b == "A" else "DownBlock2D" for b in blocks)
    arguments["up_block_types"] = tuple("AttnUpBlock2D" if b == "A" else "UpBlock2D" for b in reversed(blocks))
    for key in ("conv_out.weight", "conv_out.bias"):
        unet[key] = unet[key][-arguments["out_channels"] :]
    expected = {key: value.shape for key, value in meta_unet(arguments).state_dict().items()}
    given = {key: value.shape for key, value in unet.items()}
    if wrong := next((key for key in (*given, *expected) if given.get(key) != expected.get(key)), None):
        raise UserError(f"{PREFIX}{wrong}: {given.get(wrong)}, where the released network has {expected.get(wrong)}")
    return arguments, unet
