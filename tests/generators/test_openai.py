"""guided-diffusion's UNetModel as diffusers' UNet2DModel, against outputs of OpenAI's own code.

tests/models/guided/cases.json holds the names and shapes of the reference networks' weights, outputs.safetensors their
inputs and outputs; the weights themselves are drawn again here, from NumPy's frozen generator.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch import Tensor

from act_ray.errors import UserError
from act_ray.generators.openai import convert, is_openai

FOLDER = Path(__file__).parent / "openai"
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())


def draw(name: str, shape: list[int]) -> Tensor:
    """Weights of a size that keeps activations near one; biases and norms are away from 0 and 1."""
    normal = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()
    if len(shape) > 1:
        return normal / float(np.prod(shape[1:])) ** 0.5
    return 0.2 * normal + name.endswith(("norm.weight", "layers.0.weight", "out.0.weight"))


def weights(case: str) -> dict[str, Tensor]:
    return {name: draw(name, shape) for name, shape in CASES[case]["shapes"].items()}


def converted(case: str, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    first = CASES[case]["qkv_first"]  # None: as consistency_models, whose kernels are of an image, and not otherwise
    first = len(CASES[case]["shapes"]["middle_block.1.qkv.weight"]) == 4 if first is None else first
    return convert(state, CASES[case]["image_size"], CASES[case]["head_dim"], first)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_reference_s(case: str) -> None:
    arguments, state = converted(case, weights(case))
    net = UNet2DModel(**arguments).eval()
    net.load_state_dict(state)
    saved = {key.removeprefix(f"{case}/"): tensor for key, tensor in load_file(FOLDER / "outputs.safetensors").items()}
    with torch.no_grad():
        out = net(saved["x"], saved["t"], class_labels=saved.get("y"), return_dict=False)[0]
    torch.testing.assert_close(out, saved["out"], rtol=1e-5, atol=1e-5)


def test_architecture_is_read_off_names_and_shapes() -> None:
    arguments, _ = converted("cm", weights("cm"))
    assert arguments == {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (64, 96),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "layers_per_block": 2,
        "attention_head_dim": 16,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 7,
    }


def test_half_precision_becomes_float32() -> None:
    _, state = converted("cm", {name: tensor.half() for name, tensor in weights("cm").items()})
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_names_tell_it_from_diffusers_own() -> None:
    state = weights("adm")
    assert is_openai(state)
    assert not is_openai(converted("adm", state)[1])


TAKEN = [  # what is taken away, and the key that the message names
    ("output_blocks.1.1.proj_out.bias", "output_blocks.1.1.proj_out.bias"),
    ("middle_block.1.qkv.weight", "middle_block.1.qkv.weight"),
    ("out.2.bias", "out.2.bias"),
    ("input_blocks.1.", "input_blocks.1.0.in_layers.2.weight"),
    ("output_blocks.", "output_blocks.0.0.in_layers.2.weight"),
]
GIVEN = {  # what is put in, of this shape
    "encoder_kv.weight": (1,),
    "input_blocks.1.0.qkv.weight": (3, 1),
    "output_blocks.0.1.op.weight": (64, 64, 3, 3),
    "output_blocks.0.0.in_layers.2.bias": (5,),
    "middle_block.1.qkv.bias": (95,),
    "out.2.weight": (5, 64, 3, 3),
    "out.2.bias": (5,),
    "time_embed.0.weight": (256, 128),
    "input_blocks.3.0.in_layers.2.weight": (80, 64, 3, 3),
}


@pytest.mark.parametrize(("taken", "named"), TAKEN)
def test_missing_weights_are_named(taken: str, named: str) -> None:
    state = {name: tensor for name, tensor in weights("adm").items() if not name.startswith(taken)}
    with pytest.raises(UserError, match=rf"^{named}: missing"):
        converted("adm", state)


@pytest.mark.parametrize("key", GIVEN)
def test_weights_of_another_architecture_are_named(key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}: [^\n]+$"):
        converted("adm", {**weights("adm"), key: torch.zeros(GIVEN[key])})


@pytest.mark.parametrize("head_dim", [0, 24, 128])
def test_heads_must_divide_the_width(head_dim: int) -> None:
    with pytest.raises(UserError, match=f"^--head-width {head_dim}: must divide 64"):
        convert(weights("adm"), 8, head_dim, qkv_first=False)
