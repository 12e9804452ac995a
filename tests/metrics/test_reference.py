"""What samples are compared with: measured once, cached by data and network, and by nothing else."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData, open_data
from act_ray.errors import UserError
from act_ray.metrics import reference
from act_ray.metrics.features import FeatureNetwork, compute_features, load_network
from act_ray.metrics.frechet import frechet_distance
from act_ray.metrics.moments import Chunk, Measured, moments
from act_ray.metrics.real_distance import real_distance
from act_ray.metrics.reference import load_reference, measure_images, reference_statistics

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def digits() -> ImageData:
    return open_data("digits")


@pytest.fixture
def network(digits: ImageData) -> FeatureNetwork:
    return load_network(EvalConfig(features="classifier"), digits, torch.device("cpu"))


class Flat(nn.Module):
    """The mean of each channel, scaled."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.scale * images.float().mean((2, 3)),)

    def get_name(self) -> str:
        return "flat"


class Counted:
    """Measures real images as an evaluation's workers do, and counts them."""

    def __init__(self, network: FeatureNetwork, data: ImageData) -> None:
        self.network, self.data, self.images = network, data, 0

    def __call__(self, chunks: Sequence[Chunk], keep: list[int]) -> Iterator[Measured]:
        for chunk in chunks:
            part = measure_images(self.network, self.data, chunk, keep)
            self.images += part.moments.n
            yield part


def test_the_statistics_are_those_of_all_images_and_computed_once(
    network: FeatureNetwork, digits: ImageData, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference_statistics(network, digits)
    whole = compute_features(network, torch.from_numpy(digits.images)).numpy()
    np.testing.assert_allclose(first["mu"], whole.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first["sigma"], np.cov(whole, rowvar=False), rtol=1e-3, atol=1e-4)
    (file,) = (own_cache / "reference").glob("*.npz")
    assert digits.checksum[:16] in file.name
    monkeypatch.setattr(reference, "compute_features", lambda *_: pytest.fail("computed again"))
    again = reference_statistics(network, digits)
    assert all(np.array_equal(again[key], first[key]) for key in ("mu", "sigma"))


def test_other_data_or_another_network_has_other_statistics(digits: ImageData) -> None:
    other = ImageData(digits.images[:50], None, 0, "d" * 64, "other")
    found = [reference_statistics(Flat(s), d)["mu"][0] for s, d in ((1.0, digits), (2.0, digits), (1.0, other))]
    assert found[1] == pytest.approx(2 * found[0])
    assert found[2] != pytest.approx(found[0], rel=1e-6)


def test_training_and_evaluation_share_the_reference(network: FeatureNetwork, digits: ImageData) -> None:
    training = reference_statistics(network, digits)
    measure = Counted(network, digits)
    found = load_reference(network, digits, measure)
    assert (found.features, measure.images) == (None, 0)
    assert all(np.array_equal(found.statistics[name], training[name]) for name in ("mu", "sigma"))


def test_features_are_computed_once_and_mapped(network: FeatureNetwork, digits: ImageData, own_cache: Path) -> None:
    before = reference_statistics(network, digits)
    measure = Counted(network, digits)
    found, again = (load_reference(network, digits, measure, features=True) for _ in range(2))
    assert measure.images == len(digits.images)
    assert all(np.array_equal(found.statistics[name], before[name]) for name in ("mu", "sigma"))
    expected = compute_features(network, torch.from_numpy(digits.images))
    for loaded in (found, again):
        assert loaded.features is not None
        torch.testing.assert_close(loaded.features, expected)
    (file,) = (own_cache / "reference").glob("*.npy")
    stored = np.load(file, mmap_mode="r", allow_pickle=False)
    assert (stored.dtype, stored.shape) == (np.float32, expected.shape)


@pytest.mark.parametrize(("samples", "features"), [(100, False), (50_000, True)])
def test_the_scale_is_the_distance_of_some_real_images_from_all_others(
    samples: int, features: bool, network: FeatureNetwork, digits: ImageData
) -> None:
    """As many as there are samples, half of all at most; measured once, and not where the features are there."""
    measure = Counted(network, digits)
    known = load_reference(network, digits, measure, features=features)
    measure.images = 0
    found, again = (
        real_distance(network, digits, known, samples, lambda chunks: measure(chunks, [])) for _ in range(2)
    )
    assert measure.images == (0 if features else 100)
    all_features = compute_features(network, torch.from_numpy(digits.images))
    part = np.zeros(len(digits.images), bool)
    part[random.Random(0).sample(range(len(part)), min(samples, 898))] = True
    others = moments(all_features[~part])
    expected = frechet_distance(all_features[part], {"mu": others.mean, "sigma": others.covariance()})
    assert found == again == pytest.approx(expected, rel=1e-3)


def test_an_interrupted_reference_leaves_nothing_behind(
    network: FeatureNetwork, digits: ImageData, own_cache: Path
) -> None:
    def interrupted(chunks: Sequence[Chunk], keep: list[int]) -> Iterator[Measured]:
        yield from Counted(network, digits)(chunks[:3], keep)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_reference(network, digits, interrupted, features=True)
    assert {path.suffix for path in (own_cache / "reference").iterdir()} == {".lock"}
    assert load_reference(network, digits, Counted(network, digits)).statistics["mu"].shape == (64,)


@pytest.mark.parametrize("features", [False, True])
def test_real_images_without_finite_features_are_counted_and_nothing_is_cached(
    features: bool, digits: ImageData, own_cache: Path
) -> None:
    network = Flat(float("nan"))
    with pytest.raises(UserError, match=r"1,797 of 1,797 real images have features that are not finite"):
        load_reference(network, digits, Counted(network, digits), features=features)
    assert {path.suffix for path in (own_cache / "reference").iterdir()} == {".lock"}


def test_a_cached_reference_that_is_not_finite_is_refused(digits: ImageData, own_cache: Path) -> None:
    reference_statistics(Flat(1.0), digits)
    (file,) = (own_cache / "reference").glob("*.npz")
    np.savez(file, mu=np.full(3, np.nan), sigma=np.eye(3))
    file.with_name(f"{file.name}.written.json").unlink()  # of an earlier version, which noted nothing
    with pytest.raises(UserError, match=rf"{file.name}: .* digits is not finite; remove it"):
        reference_statistics(Flat(1.0), digits)
