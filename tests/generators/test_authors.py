"""The authors' released checkpoints: networks of their sizes, by their names."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from act_ray.errors import UserError
from act_ray.generators.authors import PREFIX, RELEASED, convert, is_authors

COUNTS = (27_495_427, 107_601_667, 113_673_219)  # the paper's sizes


def lightning(widths: tuple[int, ...], outputs: int = 3) -> tuple[UNet2DModel, dict[str, Tensor]]:
    """A network as the authors build it, and the state dict that their Lightning module would write."""
    more: dict[str, Any] = dict(RELEASED[widths])
    blocks = more.pop("blocks")
    unet = UNet2DModel(
        in_channels=3,
        out_channels=outputs,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=tuple({"D": "DownBlock2D", "A": "AttnDownBlock2D"}[b] for b in blocks),
        up_block_types=tuple({"D": "UpBlock2D", "A": "AttnUpBlock2D"}[b] for b in blocks[::-1]),
        **more,
    ).eval()
    state = {f"{prefix}{k}": v for prefix in (PREFIX, "model.unet.") for k, v in unet.state_dict().items()}
    return unet, state | {"model._discriminator.head.weight": torch.zeros(1, device=unet.device)}


def test_cifar_10s_last_three_outputs_are_the_generator() -> None:
    theirs, state = lightning((128, 128, 256, 256), outputs=6)
    assert is_authors(state)
    arguments, tensors = convert(state)
    ours = UNet2DModel(**arguments).eval()
    ours.load_state_dict(tensors)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([3.0])
    with torch.no_grad():
        assert torch.allclose(ours(x, t)[0], theirs(x, t)[0][:, 3:], atol=1e-5)


@pytest.mark.parametrize(("widths", "count"), zip(RELEASED, COUNTS, strict=True))
def test_every_released_size_is_known(widths: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        state = lightning(widths)[1]
    arguments, tensors = convert(state)
    assert sum(tensor.numel() for tensor in tensors.values()) == count
    assert arguments["sample_size"] == {4: 32, 5: 64, 6: 256}[len(widths)]


def test_another_network_is_refused_by_the_first_name_that_does_not_fit() -> None:
    with torch.device("meta"):
        state = lightning((128, 128, 256, 256))[1]
    assert not is_authors({"conv_in.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"widths \[\] are none of the released"):
        convert({f"{PREFIX}conv_in.weight": torch.zeros(1)})
    del state[f"{PREFIX}mid_block.attentions.0.to_q.weight"]
    with pytest.raises(UserError, match=r"mid_block\.attentions\.0\.to_q\.weight: None"):
        convert(state)
