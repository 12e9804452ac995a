"""LPIPS, with weights of our own."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch_fidelity.sample_similarity_lpips import NetLinLayer, SampleSimilarityLPIPS
from torchvision.transforms.functional import InterpolationMode, resize

from act_ray.config import LossConfig
from act_ray.errors import UserError
from act_ray.models.perceptual import Lpips
from act_ray.weight_files import LPIPS_FILES

FILES = tuple(weights.file for weights in LPIPS_FILES)


@pytest.fixture(autouse=True)
def _hub() -> Iterator[None]:
    """Lpips points torch hub at its folder; put it back."""
    before = torch.hub.get_dir()
    yield
    torch.hub.set_dir(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of VGG16's shapes; the classifier, which LPIPS does not use, is one number many times."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "checkpoints").mkdir()
    widths, vgg, inputs = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512], {}, 3
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    torch.manual_seed(0)
    for place, width in zip(places, widths, strict=True):
        vgg[f"features.{place}.weight"] = torch.randn(width, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        vgg[f"features.{place}.bias"] = torch.zeros(width)
        inputs = width
    for place, (out, fan) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        vgg[f"classifier.{place}.weight"] = torch.zeros(1).expand(out, fan)
        vgg[f"classifier.{place}.bias"] = torch.zeros(out)
    lins = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate([64, 128, 256, 512, 512])}
    assert NetLinLayer(64, use_dropout=True).model[1].weight.shape == lins["lin0.model.1.weight"].shape
    torch.save(lins, folder / "checkpoints" / FILES[0])
    torch.save(vgg, folder / "checkpoints" / FILES[1])
    return folder


def test_lpips_is_a_distance(weights: Path) -> None:
    lpips = Lpips(LossConfig(lpips_weights=str(weights), lpips_size=32))
    a, b = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(lpips(a, a), torch.zeros(2))
    d = lpips(a, b)
    assert d.shape == (2,)
    assert d.dtype == torch.float32
    assert (d > 0).all()
    torch.testing.assert_close(lpips(a[:1], b[:1]), d[:1])
    near = lpips(a, a + 0.05 * (b - a))
    assert (near < d).all()

    a.requires_grad_()
    lpips(a, b).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert (a.grad.flatten(1).abs().amax(1) > 0).all()
    assert not [p for p in lpips.parameters() if p.requires_grad or p.grad is not None]
    lpips.train()
    assert torch.equal(lpips(a, b), lpips(a, b))


@pytest.mark.parametrize("size", [None, 16, 48])
def test_it_is_torch_fidelitys(size: int | None, weights: Path) -> None:
    """Same distances and gradients as its forward pass, at the images' size, shrunk by area and enlarged."""
    cfg = LossConfig(lpips_weights=str(weights), lpips_size=size, lpips_resize="area", lpips_clip_target=False)
    ours, theirs = Lpips(cfg), SampleSimilarityLPIPS("lpips", sample_similarity_resize=size)
    torch.manual_seed(2)
    a, b = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    of_a, as_a = a.clone().requires_grad_(), a.clone().requires_grad_()
    d = ours(of_a, b)
    want = theirs(127.5 * (as_a + 1), 127.5 * (b + 1)).flatten()
    torch.testing.assert_close(d, want, rtol=1e-5, atol=1e-6)
    d.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(of_a.grad, as_a.grad, rtol=1e-4, atol=1e-6)


def test_the_target_is_clipped_and_images_are_enlarged_as_in_the_authors_code(weights: Path) -> None:
    """clip to [-1, 1], then bilinear to 224; torchvision's and torch-fidelity's parts put together by hand."""
    torch.manual_seed(1)
    a, b = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    d = Lpips(LossConfig(lpips_weights=str(weights)))(a, b)
    plain = Lpips(LossConfig(lpips_weights=str(weights), lpips_size=None, lpips_clip_target=False))
    large = [resize(x, [224, 224], InterpolationMode.BILINEAR, antialias=False) for x in (a, b.clamp(-1, 1))]
    torch.testing.assert_close(d, plain(*large), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(d, plain(*(resize(x, [224, 224], antialias=False) for x in (a, b))), rtol=1e-3).any()
    area = Lpips(LossConfig(lpips_weights=str(weights), lpips_size=16, lpips_resize="area", lpips_clip_target=False))
    halves = [F.avg_pool2d(x, 2) for x in (a, b)]
    torch.testing.assert_close(area(a, b), plain(*halves), rtol=1e-4, atol=1e-5)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Lpips(LossConfig(lpips_weights=str(tmp_path)))
    message = str(error.value)
    assert all(name in message for name in FILES)
    assert str(tmp_path) in message
    assert "\n" not in message
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / FILES[0])
    with pytest.raises(UserError) as error:
        Lpips(LossConfig(lpips_weights=str(tmp_path)))
    assert FILES[0] not in str(error.value)
    assert FILES[1] in str(error.value)


class Canary:
    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.nest),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_in_place_of_weights_never_runs(name: str, how: str, weights: Path, tmp_path: Path) -> None:
    folder, nest = tmp_path / "checkpoints", tmp_path / "canary"
    folder.mkdir()
    for other in FILES:
        (folder / other).symlink_to(weights / "checkpoints" / other)
    (folder / name).unlink()
    if how == "torch":
        torch.save({"a": torch.zeros(1), "b": Canary(nest)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Canary(nest)))
    with pytest.raises(UserError, match=name):
        Lpips(LossConfig(lpips_weights=str(tmp_path)))
    assert not nest.exists()
