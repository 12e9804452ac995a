"""OpenAI's UNetModel (guided-diffusion, consistency_models) as diffusers' UNet2DModel."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from act_ray.errors import UserError
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.imported import imported_generator, meta_unet

HEAD_WIDTH = 64  # of attention in every released network below
# The released networks by (channels of each resolution, residual blocks per resolution): whether guided-diffusion's has
# attention's rows ordered (qkv, head, width), use_new_attention_order; consistency_models' all have.
RELEASED = {
    ((192, 384, 576, 768), 3): True,  # ImageNet-64
    ((256, 256, 512, 512, 1024, 1024), 2): False,  # LSUN-256; guided-diffusion's ImageNet-256
    ((128, 256, 256, 512, 512, 1024, 1024), 2): False,  # guided-diffusion's ImageNet-512
}
NAMES = {"cd_": Kind.CONSISTENCY, "ct_": Kind.CONSISTENCY, "edm_": Kind.DENOISER}  # how released files begin
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


def is_openai(state: dict[str, Any]) -> bool:
    """Whether a state dict has UNetModel's names."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= state.keys()


def read_openai(
    path: Path, state: dict[str, Tensor], image_size: int | None, head_width: int | None, kind: Kind | None
) -> Generator:
    """The generator of UNetModel's state dict. Raises UserError for what neither the file nor the caller says.

    image_size: the side of the images. head_width: of attention's heads; default: that of the released networks. kind:
    default: what the file's name begins with; EDM's denoisers and consistency models have the same names and shapes.
    """
    if image_size is None:
        raise UserError(f"{path}: does not say how large its images are; give --image-size")
    try:
        widths, blocks, _ = _resolutions(state)
        guided_diffusion = len(_shape(state, "middle_block.1.qkv.weight")) == 3  # consistency_models' are of an image
        if guided_diffusion and (head_width is not None or kind is not None):
            raise UserError("is a network of guided-diffusion; leave out --head-width and --kind")
        if guided_diffusion:
            arguments, tensors = convert(state, image_size, *_guided_diffusion_heads(widths, blocks))
        else:
            arguments, tensors = convert(state, image_size, _head_width(widths, blocks, head_width), qkv_first=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if guided_diffusion:
        reason = "is a network of guided-diffusion, which counts steps"
        return imported_generator(path, arguments, tensors, {}, Kind.OTHER, unusable=reason)
    known = kind or next((k for start, k in NAMES.items() if path.name.startswith(start)), Kind.UNKNOWN)
    reason = "is a consistency model or EDM's denoiser, and its name (cd_, ct_, edm_) does not say which; give --kind"
    return imported_generator(
        path,
        arguments,
        tensors,
        {"time_input": "log"},  # consistency_models' networks are told 250 ln t
        known,
        unusable=reason if known is Kind.UNKNOWN else None,
        clip=True,  # as its samplers do unless told otherwise
    )


def _head_width(widths: tuple[int, ...], blocks: int, given: int | None) -> int:
    """What was given, or what is known of a released network. Raises UserError where neither is."""
    if given is None and (widths, blocks) not in RELEASED:
        raise UserError(
            f"does not say how wide an attention head is, and {widths} with {blocks} blocks each is no released "
            "network; give --head-width (num_head_channels; where no such option is, give the diffusers folder that "
            "act_ray.export makes of it)"
        )
    return given or HEAD_WIDTH


def _guided_diffusion_heads(widths: tuple[int, ...], blocks: int) -> tuple[int, bool]:
    """(width of a head, whether rows are ordered qkv first) of a released network. Raises UserError for others."""
    if (widths, blocks) not in RELEASED:
        raise UserError(
            f"{widths} with {blocks} blocks each is none of guided-diffusion's networks that can be read; the file "
            "does not say how attention's rows are ordered"
        )
    return HEAD_WIDTH, RELEASED[widths, blocks]


def convert(
    state: dict[str, Tensor], image_size: int, head_width: int | None, qkv_first: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """UNet2DModel's arguments and float32 state dict for UNetModel's; the architecture is read off names and shapes.

    What they cannot say: image_size; head_width, of attention (None: one head); qkv_first: whether attention's rows are
    ordered (qkv, head, width), as in consistency_models and with use_new_attention_order, or (head, qkv, width). Of
    twice as many outputs as inputs the last half is kept (of learn_sigma's, OpenAI samples from the first). Raises
    UserError naming the first key that does not fit.
    """
    arguments = _arguments(state, image_size, head_width)
    blocks = _blocks(arguments)
    converted: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for key, value in state.items():
        names = _names(key, blocks)
        if not names:
            raise UserError(f"{key}: has no place in {LAYOUT}")
        for name, tensor in zip(names, _tensors(key, value.float(), None if qkv_first else head_width), strict=True):
            converted[name], sources[name] = tensor, key
    for name in ("conv_out.weight", "conv_out.bias"):
        if name in converted and len(converted[name]) == 2 * arguments["out_channels"]:
            converted[name] = converted[name][arguments["out_channels"] :]
    _require_all(arguments, converted, sources, blocks)
    return arguments, converted


# ---------------------------------------------------------------------------------------------- architecture


def _arguments(state: dict[str, Tensor], image_size: int, head_width: int | None) -> dict[str, Any]:
    widths, layers, resnet = _resolutions(state)
    starts = _first_blocks(len(widths), layers)
    down = [f"input_blocks.{i + 1}.1.qkv.weight" in state for i in starts]
    up = [f"output_blocks.{i}.1.qkv.weight" in state for i in starts]
    for width in (*(width for width, attends in zip(widths, down, strict=True) if attends), widths[-1]):
        if head_width is not None and (head_width < 1 or width % head_width):
            raise UserError(f"--head-width {head_width}: must divide {width}, the width of an attention layer")
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
        "attention_head_dim": head_width,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,  # diffusers drops the middle block's with scale_shift, unless told
        "resnet_time_scale_shift": "scale_shift" if embedded == 2 * widths[0] else "default",
        "num_class_embeds": _shape(state, "label_emb.weight")[0] if "label_emb.weight" in state else None,
    }


def _resolutions(state: dict[str, Tensor]) -> tuple[tuple[int, ...], int, bool]:
    """Channels at each resolution, residual blocks per resolution of the way down, and whether those resample.

    An upsampler ends every resolution of the way up but the last, which has one block more than on the way down.
    """
    _shape(state, "output_blocks.0.0.in_layers.2.weight")
    ups = {int(match[1]) for key in state if (match := re.match(r"output_blocks\.(\d+)\.", key))}
    upsamplers = (
        (block, resnet)
        for block in sorted(ups)
        for slot in (1, 2)  # after the residual block, or after its attention
        for layer, resnet in (("conv", False), ("in_layers.2", True))
        if f"output_blocks.{block}.{slot}.{layer}.weight" in state
    )
    layers, resnet = next(upsamplers, (len(ups) - 1, False))
    starts = _first_blocks(len(ups) // (layers + 1), layers)
    return tuple(_width(state, f"input_blocks.{i + 1}.0.in_layers.2.weight") for i in starts), layers, resnet


def _first_blocks(resolutions: int, layers: int) -> range:
    """The number of each resolution's first block on the way up; on the way down one more, after conv_in."""
    return range(0, resolutions * (layers + 1), layers + 1)


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


def _require_all(
    arguments: dict[str, Any], converted: dict[str, Tensor], sources: dict[str, str], blocks: dict[str, str]
) -> None:
    """Every tensor of UNet2DModel, in its shape, and no other."""
    expected = meta_unet(arguments).state_dict()
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
