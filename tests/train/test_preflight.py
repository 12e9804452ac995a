"""Settings that do not fit together or with what they name: one line each, before anything is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.models.unet import UNet
from act_ray.train.preflight import check_fit, distillation_teacher, preflight
from act_ray.train.warm_start import adopt_architecture
from act_ray.weight_files import INCEPTION
from tests.helpers.command import Ended
from tests.helpers.tiny_runs import go, tiny
from tests.helpers.tiny_settings import DIFFUSION, as_options

DATA = open_data("digits")
SHORT: dict[str, Any] = {"train.total_steps": 2, "eval.every": 2}


def test_a_teacher_must_be_a_denoiser_of_this_kind(tmp_path: Path) -> None:
    go(tiny(SHORT), tmp_path / "act")
    DDPMPipeline(UNet(tiny(), 1, 8).unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    UNet(tiny(), 1, 8).unet.save_pretrained(tmp_path / "bare")
    for name in ("act", "ddpm"):
        with pytest.raises(UserError, match=f"distill.teacher = .*/{name}: is no diffusion model"):
            preflight(tiny({"distill.teacher": str(tmp_path / name)}), 0)
    with pytest.raises(UserError, match="nowhere: no such file"):
        preflight(tiny({"distill.teacher": str(tmp_path / "nowhere")}), 0)
    go(tiny(DIFFUSION | SHORT), tmp_path / "edm")
    for name in ("edm", "bare"):
        source = distillation_teacher(tiny({"distill.teacher": str(tmp_path / name)}), DATA)
        assert source is not None
        assert type(source.build(torch.device("cpu"), denoiser=True)).__name__ == "Denoiser"
    unused = tiny({"distill.teacher": str(tmp_path / "nowhere"), "loss.w": 1.0, "loss.w_mid": 1.0})
    assert distillation_teacher(unused, DATA) is None


def test_a_diffusion_run_needs_neither_lpips_nor_a_discriminator() -> None:
    more = {"loss.distance": "lpips", "discriminator.kind": "projected"}
    preflight(tiny(DIFFUSION | more), 0)
    with pytest.raises(UserError, match="needs 3 channels"):
        preflight(tiny(more), 0)
    with pytest.raises(UserError, match="feature_weights is not set"):
        preflight(tiny({"discriminator.kind": "projected"}), 0)
    with pytest.raises(UserError, match="a diffusion run has no discriminator"):
        tiny(DIFFUSION | {"augment.enabled": True})


def test_workers_hold_whole_groups_of_stylegan2(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny({"discriminator.kind": "stylegan2", "train.global_batch": 80})
    for world in (1, 2, 5):
        check_fit(cfg, DATA, world)
    with pytest.raises(UserError, match="needs a multiple of 32 with 4 workers; nearest: 64"):
        check_fit(cfg, DATA, 4)
    with pytest.raises(UserError, match=r"train.micro_batch = 20: .*groups of 4 .*multiple of 8; nearest: 16"):
        check_fit(tiny({"discriminator.kind": "stylegan2", "train.global_batch": 80, "train.micro_batch": 20}), DATA, 1)


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        ({"down_block_types": ["Foo"]}, "model.unet: ValueError: Foo"),
        ({"in_channels": 4}, "model.unet.in_channels: follows the images"),
        ({"block_out_channels": 3}, "model.unet: TypeError"),
        ({"sampel_size": 3}, "no such argument of UNet2DModel; did you mean 'sample_size'"),
    ],
)
def test_a_mistake_in_model_unet_is_one_line(unet: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UNet(tiny({"model.unet": unet}), 1, 8)


def test_an_explicit_network_beside_model_init_is_refused(tmp_path: Path) -> None:
    UNet(tiny({"model.block_out_channels": [16]}), 1, 8).unet.save_pretrained(tmp_path)
    cfg = tiny({"model.init": str(tmp_path)})
    assert adopt_architecture(cfg, {"model.init", "loss.w"}).model.block_out_channels == (16,)
    with pytest.raises(UserError, match=r"model.block_out_channels = \(8,\): .* has \(16,\); leave it out"):
        adopt_architecture(cfg, {"model.block_out_channels"})


@pytest.mark.parametrize("verb", [("train", "--preset", "cifar10"), ("tune", "--space", "cifar10")])
def test_all_that_is_missing_or_does_not_fit_is_named_at_once(
    verb: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, and settings that do not fit the data; where eval.features is auto, Inception is not missed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    np.save(tmp_path / "rgb.npy", np.zeros((20, 16, 16, 3), np.uint8))
    Ended(capfd, "prepare", tmp_path / "rgb.npy", tmp_path / "rgb").succeeded()
    start = [*verb, "--data", str(tmp_path / "rgb"), "--dry-run"]
    said = Ended(capfd, *start).err.splitlines()[-1]
    assert "weights-vgg16-lpips.pth and vgg16-397923af.pth not in" in said
    assert INCEPTION.file not in said
    more = {"eval.features": "inception", "data.subset": 30, "discriminator.kind": "projected"}
    if verb[0] == "train":
        more |= {"model.num_classes": 5}
    said = Ended(capfd, *start, *as_options(more)).mistake()
    for part in ("weights-vgg16-lpips.pth and vgg16-397923af.pth not in", INCEPTION.file, "feature_weights is not set",
                 f"data.subset = 30: {tmp_path}/rgb has 20 images"):  # fmt: skip
        assert said.count(part) >= 1, said
    assert said.count("data.subset") == 1
    assert ("model.num_classes = 5" in said) is (verb[0] == "train")


@pytest.mark.parametrize(
    ("settings", "world", "message"),
    [
        ({"train.global_batch": 10}, 3, "train.global_batch = 10: must be a multiple of 2 x 3 workers; nearest: 12"),
        (
            {"train.global_batch": 24, "train.micro_batch": 8},
            2,
            "train.micro_batch = 8: must divide a worker's share of train.global_batch, which is 12; nearest: 6",
        ),
        ({"train.global_batch": 2}, 4, "train.global_batch = 2: must be a multiple of 2 x 4 workers; nearest: 8"),
        ({"loss.distance": "lpips"}, 1, "loss.distance = 'lpips': needs 3 channels, digits has 1; use pseudo_huber"),
        (
            {"discriminator.block_out_channels": [8, 8]},
            1,
            "discriminator.block_out_channels = [8, 8]: needs 1 widths, as model.block_out_channels; null takes the "
            "generator's",
        ),
        (
            {"discriminator.block_out_channels": [30]},
            1,
            "discriminator.block_out_channels = [30]: 30 is no multiple of the 8 groups of the norms; nearest: 32",
        ),
        ({"data.subset": 2000}, 1, "data.subset = 2000: digits has 1,797 images"),
        (
            {"data.subset": 20, "data.held_out": 0.05},
            1,
            "data.held_out = 0.05: keeps back fewer than 2 of 20 images; give 0, or at least 0.1",
        ),
        ({"model.num_classes": 9}, 1, "model.num_classes = 9: digits has 10 classes"),
        (
            {"model.block_out_channels": [8] * 5, "model.down": "DDDDD", "model.up": "UUUUU"},
            1,
            "data.path = digits: 8x8 images; model.block_out_channels needs squares whose side is a multiple of 16",
        ),
    ],
)
def test_a_mistake_that_only_the_data_shows(settings: dict[str, Any], world: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_fit(tiny(settings), DATA, world)
    assert str(error.value) == message
