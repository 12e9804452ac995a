"""Models of others at their smallest: diffusers', OpenAI's and the authors' files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from act_ray.generators import authors

OTHERS: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "time_embedding_dim": 24,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "dropout": 0.3,
}


def others_unet(more: dict[str, Any] | None = None) -> UNet2DModel:
    torch.manual_seed(1)
    return UNet2DModel(**OTHERS | (more or {}))


def openai_file(path: Path, kernel: tuple[int, ...] = (1, 1)) -> str:
    """A state dict of OpenAI's UNetModel at one resolution; attention's kernels are 1x1 in consistency_models."""
    shapes: dict[str, tuple[int, ...]] = {"time_embed.0": (256, 64), "time_embed.2": (256, 256)}
    shapes |= {"input_blocks.0.0": (64, 3, 3, 3), "out.0": (64,), "out.2": (3, 64, 3, 3), "label_emb": (7, 256)}
    for block, width in {
        "input_blocks.1.0": 64,
        "middle_block.0": 64,
        "middle_block.2": 64,
        "output_blocks.0.0": 128,
        "output_blocks.1.0": 128,
    }.items():
        shapes |= {f"{block}.in_layers.0": (width,), f"{block}.in_layers.2": (64, width, 3, 3)}
        shapes |= {f"{block}.emb_layers.1": (128, 256), f"{block}.out_layers.0": (64,)}
        shapes |= {f"{block}.out_layers.3": (64, 64, 3, 3)}
        shapes |= {f"{block}.skip_connection": (64, 128, 1, 1)} if width == 128 else {}
    attention = {"norm": (64,), "qkv": (192, 64, *kernel), "proj_out": (64, 64, *kernel)}
    shapes |= {f"middle_block.1.{layer}": shape for layer, shape in attention.items()}
    state = {f"{name}.weight": 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": 0.2 * torch.randn(shape[:1]) for name, shape in shapes.items() if name != "label_emb"}
    torch.save(state, path)
    return str(path)


def authors_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> UNet2DModel:
    """Write what the ACT authors' Lightning writes of a small network; returns it, built by diffusers alone."""
    monkeypatch.setitem(authors.RELEASED, (64,), {"sample_size": 8, "attention_head_dim": 16, "blocks": "A"})
    torch.manual_seed(3)
    unet = UNet2DModel(
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(64,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        attention_head_dim=16,
    ).eval()
    state = {f"model_ema.unet.{name}": value for name, value in unet.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 1e-4}}, path)
    return unet
