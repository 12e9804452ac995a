"""Projected GAN's discriminator: its heads, its frozen features, and the files of their weights."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.models.discriminators import require_discriminator_files
from act_ray.models.discriminators.projected import FrozenFeatures, ProjectedDiscriminator, feature_network
from tests.helpers.small_networks import NETWORK, T, count, images, projected


def test_projected_heads_at_224_are_the_official_ones() -> None:
    """4, 3, 2 and 1 halvings, and their convolutions' parameters with those of the norms, by hand."""
    with torch.device("meta"):
        D = projected(3, 224)
    assert [sum(isinstance(m, nn.GroupNorm) for m in head.modules()) for head in D.heads] == [4, 3, 2, 1]
    assert [count(head) for head in D.heads] == [2_829_120, 2_763_392, 2_631_936, 2_106_880]
    assert count(D) == 10_331_328


def test_frozen_weights_stay_frozen() -> None:
    D = projected(t=True)
    D.requires_grad_(False)
    assert count(D) == 0
    D.requires_grad_(True).train()
    assert not [p for p in D.features.parameters() if p.requires_grad]
    assert all(p.requires_grad for p in [*D.heads.parameters(), *D.embedding.parameters()])  # type: ignore[union-attr]
    assert not any(m.training for m in D.features.network.modules())
    assert all(head.training for head in D.heads)

    before = {name: value.clone() for name, value in D.state_dict().items()}
    optimizer = torch.optim.AdamW(D.parameters(), 0.1, weight_decay=0.5)
    D(images(2), T[:2]).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in D.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith("features.")]
    assert {name for name, _ in D.named_parameters() if not name.startswith("features.")} <= changed
    assert [name for name in before if name.startswith("features.network.")]  # a checkpoint has them


def test_heads_are_spectrally_normalised() -> None:
    D = projected()
    for head in D.heads:
        nn.init.normal_(head.out.parametrizations.weight.original)  # type: ignore[union-attr, arg-type]
    convs = [m for m in D.heads.modules() if isinstance(m, nn.Conv2d)]
    for _ in range(20):  # each use is an iteration
        assert all(conv.weight.isfinite().all() for conv in convs)
    assert len(convs) == 4 + 2 + 1  # 32x32, 16x16 and 8x8, 4x4 of a 64x64 image: 2, 1, 0 and 0 halvings
    for conv in convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_projected_samples_do_not_see_each_other() -> None:
    D, x = projected(t=True).eval(), images(3)
    parts = torch.cat([D(x[:1], T[:1]), D(x[1:], T[1:3])])
    torch.testing.assert_close(parts, D(x, T[:3]), rtol=1e-4, atol=1e-5)


def test_coarse_levels_reach_every_finer_one() -> None:
    features, x = FrozenFeatures(NETWORK, "random", 64), images(1, 3)
    before = features(x)
    assert [tuple(m.shape[1:]) for m in before] == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]
    for level, mix in enumerate(features.across_channels):
        assert isinstance(mix, nn.Conv2d)
        weight = mix.weight.clone()
        nn.init.zeros_(mix.weight)
        changed = [not torch.equal(a, b) for a, b in zip(before, features(x), strict=True)]
        assert changed == [i <= level for i in range(4)]
        mix.weight.copy_(weight)


def test_grey_images_become_colour_and_all_are_normalised() -> None:
    torch.manual_seed(1)
    grey = projected(channels=1).eval()
    torch.manual_seed(1)
    colour = projected(channels=3).eval()
    x = images(2)
    torch.testing.assert_close(grey(x, T[:2]), colour(x.expand(-1, 3, -1, -1), T[:2]))
    features = FrozenFeatures("resnet18", "random", 64)  # ImageNet's mean and deviation, not one half
    assert (-1 * features.scale + features.shift).flatten().tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )
    with pytest.raises(UserError, match="2 channels"):
        projected(channels=2)


@pytest.mark.parametrize(("size", "nearest"), [(32, 64), (100, 96), (230, 224)])
def test_projected_refuses_other_sizes(size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"feature_size = {size}: .*nearest: {nearest}$"):
        projected(size=size)


@pytest.mark.parametrize("name", [NETWORK, "resnet18"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_the_whole_network_are_loaded(name: str, suffix: str, tmp_path: Path) -> None:
    """The features equal those inside the network whose file it is; the classifier in it is left out."""
    whole, path = timm.create_model(name, pretrained=False).eval(), tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file(whole.state_dict(), path)
    x = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    features = feature_network(name, str(path))(x)
    assert len(features) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


def test_missing_weights_say_which_file_goes_where(tmp_path: Path) -> None:
    for weights in (None, str(tmp_path / "model.safetensors")):
        with pytest.raises(UserError) as error:
            ProjectedDiscriminator(3, NETWORK, weights, 64, True, None)
        message = str(error.value)
        assert ("is not set" if weights is None else f"discriminator.feature_weights = {weights}: no such") in message
        assert f"model.safetensors of huggingface.co/timm/{NETWORK}" in message
        assert "feature_weights=random" in message
        assert "\n" not in message


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    with pytest.raises(UserError, match=f"{path}: not the weights of {NETWORK}: no 'conv_stem.weight' of shape"):
        feature_network(NETWORK, str(path))
    narrow = timm.create_model(NETWORK, pretrained=False).state_dict()
    save_file({**narrow, "conv_stem.weight": torch.zeros(16, 3, 3, 3)}, path)
    with pytest.raises(UserError, match=r"no 'conv_stem.weight' of shape \(32, 3, 3, 3\)"):
        feature_network(NETWORK, str(path))
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match=f"{path}: not a safetensors file"):
        feature_network(NETWORK, str(path))
    lists = tmp_path / "lists.pth"
    torch.save([torch.zeros(1)], lists)
    with pytest.raises(UserError, match=f"{lists}: not the weights"):
        feature_network(NETWORK, str(lists))


class Canary:
    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.nest),)


def test_a_pickle_in_place_of_weights_never_runs(tmp_path: Path) -> None:
    path, nest = tmp_path / "model.pth", tmp_path / "canary"
    torch.save({"conv_stem.weight": Canary(nest)}, path)
    with pytest.raises(UserError, match="not a plain file of weights"):
        feature_network(NETWORK, str(path))
    assert not nest.exists()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite_0", "hf-hub:timm/tf_efficientnet_lite0"])
def test_an_unknown_network_is_named_with_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=f"feature_network = '{name}': no such network.*'{NETWORK}'"):
        feature_network(name, "random")


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("vit_tiny_patch16_224", 64, "AssertionError for 64x64 images"),
        ("vit_tiny_patch16_224", 224, r"its feature maps are \(192, 14, 14\), "),
        (f"{NETWORK}.no_such_tag", 64, "Invalid pretrained tag"),
    ],
)
def test_a_network_without_the_four_maps_is_refused(name: str, size: int, why: str) -> None:
    with pytest.raises(UserError, match=f"feature_network = '{name}': .*{why}.*strides 4, 8, 16 and 32"):
        FrozenFeatures(name, "random", size)


def of_kind(kind: str, **dotted: Any) -> Config:
    return settings.load("digits", {"discriminator.kind": kind, **dotted})


def test_missing_timm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^discriminator.kind = 'projected': needs timm: pip install 'act-ray\[proj"):
        require_discriminator_files(of_kind("projected", **{"discriminator.feature_weights": "random"}))
