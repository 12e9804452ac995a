"""Generators of diffusers' folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline
from safetensors.torch import save_file

from act_ray.errors import UserError
from act_ray.generators.reading import read_generator
from tests.helpers.imported_models import others_unet

CPU = torch.device("cpu")


def test_a_network_alone_starts_a_run_and_makes_no_images(tmp_path: Path) -> None:
    others_unet().half().save_pretrained(tmp_path / "u")
    source = read_generator(str(tmp_path / "u"))
    assert {tensor.dtype for tensor in source.tensors.values()} == {torch.float32}
    with pytest.raises(UserError, match=r"u: has no scheduler, where .* is needed; .* only start a run \(model.init\)"):
        source.build(CPU)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 30.0])
    theirs = others_unet().half().float().eval()(x, t, return_dict=False)[0]
    torch.testing.assert_close(source.build(CPU, denoiser=True).network(x, t), theirs)


def test_a_pipeline_s_schedule_is_taken_over(tmp_path: Path) -> None:
    scheduler = CMStochasticIterativeScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7, rho=5.0)
    ConsistencyModelPipeline(others_unet(), scheduler).save_pretrained(tmp_path / "p")
    schedule = read_generator(str(tmp_path / "p")).cfg.schedule
    assert (schedule.t_min, schedule.t_max, schedule.sigma_data, schedule.rho) == (0.01, 50.0, 0.7, 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name = 'UNet2DConditionModel'; needs 'UNet2DModel'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'; needs 'positional'"),
        ({"class_embed_type": "identity"}, "class_embed_type = 'identity'; needs None"),
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "SkipDownBlock2D: a block that"),
        ({"sample_size": None}, "needs square images"),
        ({"num_class_embeds": 3}, "the weights lack class_embedding.weight"),
        ({"mid_block_type": None}, "the weights have an unknown mid_block"),
        ({"block_out_channels": [8, 8]}, "not a UNet2DModel with safetensors weights"),
        ({"norm_groups": 4}, r"norm_groups: no argument of UNet2DModel; did you mean 'norm_num_groups'\?"),
    ],
)
def test_a_folder_that_is_not_what_it_must_be_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    others_unet().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        read_generator(str(tmp_path))


def test_pickled_weights_and_torn_files_are_refused(tmp_path: Path) -> None:
    others_unet().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UserError, match="not a UNet2DModel with safetensors weights"):
        read_generator(str(tmp_path))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(100)}, weights)
    weights.write_bytes(weights.read_bytes()[:90])
    with pytest.raises(UserError, match="not a UNet2DModel with safetensors weights"):
        read_generator(str(tmp_path))


@pytest.mark.parametrize(("said", "asked", "clamped"), [(True, None, True), (False, None, False), (True, False, False),
                                                        (False, True, True)])  # fmt: skip
def test_f_is_clamped_where_the_scheduler_or_the_caller_says_so(
    said: bool, asked: bool | None, clamped: bool, tmp_path: Path
) -> None:
    unet = others_unet()
    with torch.no_grad():
        unet.conv_out.weight *= 100
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler(clip_denoised=said)).save_pretrained(tmp_path)
    f = read_generator(str(tmp_path), clip=asked).build(torch.device("cpu"))
    out = f(torch.randn(2, 1, 8, 8), torch.tensor([5.0, 80.0]))
    assert (float(out.abs().max()) <= 1) is clamped
