"""OpenAI's UNetModel (guided-diffusion, consistency_models) as diffusers' UNet2DModel."""

import re
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from act_ray.errors import UserError

GROUPS = 32  # of every group norm; the sources know no other
LAYOUT = "the guided-diffusion UNetModel that the other keys make up"
SINGLE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
IN_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
    "op": "conv",  # strided convolution of the way down
    "conv": "conv",  # of the way up
}
MIDDLE = {
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


def is_guided(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has UNetModel's names."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= state.keys()


def convert(
    state: dict[str, Tensor], image_size: int, head_dim: int | None = 64, qkv_first: bool | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """UNet2DModel's arguments and float32 state dict for UNetModel's; the architecture is read off names and shapes.

    What they cannot say: image_size; head_dim, the width of an attention head (64 in OpenAI's consistency models; None:
    one head); qkv_first, whether attention's rows are ordered (qkv, head, width), as in consistency_models and with
    use_new_attention_order, or (head, qkv, width), as in guided-diffusion (None: consistency_models has kernels of two
    dimensions, guided-diffusion of one). Of twice as many outputs as inputs the last half is kept (of learn_sigma's,
    OpenAI samples from the first). Raises UserError naming the first key that does not fit.
    """
    arguments = _arguments(state, image_size, head_dim)
    blocks = _blocks(arguments)
    if qkv_first is None:
        qkv_first = len(_shape(state, "middle_block.1.qkv.weight")) == 4
    converted: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for key, value in state.items():
        names = _names(key, blocks)
        if not names:
            raise UserError(f"{key}: has no place in {LAYOUT}")
        for name, tensor in zip(names, _tensors(key, value.float(), None if qkv_first else head_dim), strict=True):
            converted[name], sources[name] = tensor, key
    for name in ("conv_out.weight", "conv_out.bias"):
        if name in converted and len(converted[name]) == 2 * arguments["out_channels"]:
            converted[name] = converted[name][arguments["out_channels"] :]
    _check(arguments, converted, sources, blocks)
    return arguments, converted


# ---------------------------------------------------------------------------------------------- architecture


def _arguments(state: dict[str, Tensor], image_size: int, head_dim: int | None) -> dict[str, Any]:
    layers, levels, resnet = _levels(state)
    starts = range(0, levels * (layers + 1), layers + 1)  # each level's first block; input_blocks.0 is conv_in
    widths = tuple(_width(state, f"input_blocks.{i + 1}.0.in_layers.2.weight") for i in starts)
    down = [f"input_blocks.{i + 1}.1.qkv.weight" in state for i in starts]
    up = [f"output_blocks.{i}.1.qkv.weight" in state for i in starts]
    for width in (*(width for width, attends in zip(widths, down, strict=True) if attends), widths[-1]):
        if head_dim is not None and (head_dim < 1 or width % head_dim):
            raise UserError(f"head_dim = {head_dim}: must divide {width}, the width of an attention layer")
    channels = _shape(state, "input_blocks.0.0.weight")[1]
    embedded = _shape(state, "input_blocks.1.0.emb_layers.1.weight")[0]
    resample, prefix = ("resnet", "Resnet{}sample") if resnet else ("conv", "{}")
    return {
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": tuple(f"{'AttnDown' if attends else prefix.format('Down')}Block2D" for attends in down),
        "up_block_types": tuple(f"{'AttnUp' if attends else prefix.format('Up')}Block2D" for attends in up),
        "downsample_type": resample,
        "upsample_type": resample,
        "layers_per_block": layers,
        "attention_head_dim": head_dim,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,  # diffusers drops the middle block's with scale_shift, unless told
        "resnet_time_scale_shift": "scale_shift" if embedded == 2 * widths[0] else "default",
        "num_class_embeds": _shape(state, "label_emb.weight")[0] if "label_emb.weight" in state else None,
    }


def _levels(state: dict[str, Tensor]) -> tuple[int, int, bool]:
    """Residual blocks per level of the way down, levels, and whether residual blocks do the resampling.

    An upsampler ends every level of the way up but the last, and such a level has one block more than of the way down.
    """
    _shape(state, "output_blocks.0.0.in_layers.2.weight")
    ups = {int(match[1]) for key in state if (match := re.match(r"output_blocks\.(\d+)\.", key))}
    for block in sorted(ups):
        for slot in (1, 2):  # after the residual block, or after its attention
            for layer, resnet in (("conv", False), ("in_layers.2", True)):
                if f"output_blocks.{block}.{slot}.{layer}.weight" in state:
                    return block, len(ups) // (block + 1), resnet
    return len(ups) - 1, 1, False


def _width(state: dict[str, Tensor], key: str) -> int:
    width = _shape(state, key)[0]
    if width % GROUPS:
        raise UserError(f"{key}: {width} channels, but a guided-diffusion UNetModel has multiples of {GROUPS}")
    return width


def _shape(state: dict[str, Tensor], key: str) -> torch.Size:
    if key not in state:
        raise UserError(f"{key}: missing; not the weights of a guided-diffusion UNetModel")
    return state[key].shape


# ---------------------------------------------------------------------------------------------- names


def _blocks(arguments: dict[str, Any]) -> dict[str, str]:
    """Where each module of UNetModel's blocks goes: input_blocks.1.0 -> down_blocks.0.resnets.0 and so on."""
    blocks, layers = dict(MIDDLE), arguments["layers_per_block"]
    last = len(arguments["block_out_channels"]) - 1
    for level in range(last + 1):
        first = 1 + level * (layers + 1)
        for j in range(layers):
            blocks[f"input_blocks.{first + j}.0"] = f"down_blocks.{level}.resnets.{j}"
            blocks[f"input_blocks.{first + j}.1"] = f"down_blocks.{level}.attentions.{j}"
        if level < last:
            blocks[f"input_blocks.{first + layers}.0"] = f"down_blocks.{level}.downsamplers.0"
    for level, kind in enumerate(arguments["up_block_types"]):
        for j in range(layers + 1):
            block, slot = f"output_blocks.{level * (layers + 1) + j}", 1
            blocks[f"{block}.0"] = f"up_blocks.{level}.resnets.{j}"
            if kind.startswith("Attn"):
                blocks[f"{block}.1"] = f"up_blocks.{level}.attentions.{j}"
                slot = 2
            if j == layers and level < last:
                blocks[f"{block}.{slot}"] = f"up_blocks.{level}.upsamplers.0"
    return blocks


def _names(key: str, blocks: dict[str, str]) -> list[str]:
    """diffusers' names for one of UNetModel's: three for attention's qkv, none for what has no place, else one."""
    layer, _, part = key.rpartition(".")
    if layer in SINGLE:
        return [f"{SINGLE[layer]}.{part}"]
    match = re.fullmatch(r"((?:input|output)_blocks\.\d+\.\d+|middle_block\.\d+)\.(.+)", layer)
    block = blocks.get(match[1]) if match else None
    if match is None or block is None:
        return []
    if match[2] == "qkv":
        return [f"{block}.to_{letter}.{part}" for letter in "qkv"]
    return [f"{block}.{IN_BLOCK[match[2]]}.{part}"] if match[2] in IN_BLOCK else []


def _tensors(key: str, value: Tensor, by_head: int | None) -> list[Tensor]:
    """What goes under `_names`; by_head: the heads' width where attention's rows are (head, qkv, width)."""
    if key.endswith((".qkv.weight", ".proj_out.weight")):
        value = value.flatten(1)  # a convolution with a 1x1 kernel; diffusers has a linear layer
    if ".qkv." not in key:
        return [value]
    if len(value) % (3 * (by_head or 1)):
        raise UserError(f"{key}: {len(value)} rows are not q, k and v of heads of width {by_head or 'C'}")
    if by_head is None:
        return list(value.chunk(3))
    rows = value.reshape(-1, 3, by_head, *value.shape[1:])
    return [rows[:, i].flatten(0, 1) for i in range(3)]


def _check(
    arguments: dict[str, Any], converted: dict[str, Tensor], sources: dict[str, str], blocks: dict[str, str]
) -> None:
    """Every tensor of UNet2DModel, in its shape, and no other."""
    with torch.device("meta"):
        expected = UNet2DModel(**arguments).state_dict()
    for name, tensor in converted.items():
        if name not in expected:
            raise UserError(f"{sources[name]}: has no place in {LAYOUT}")
        if tensor.shape != expected[name].shape:
            wanted, given = list(expected[name].shape), list(tensor.shape)
            raise UserError(f"{sources[name]}: gives {name} the shape {given}, where {LAYOUT} has {wanted}")
    for name in expected:
        if name not in converted:
            layers = [*SINGLE, *(f"{block}.{layer}" for block in blocks for layer in (*IN_BLOCK, "qkv"))]
            keys = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
            raise UserError(f"{next(key for key in keys if name in _names(key, blocks))}: missing in {LAYOUT}")
