"""Scores against closed forms, and the feature networks behind them."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData, open_data
from act_ray.errors import UserError
from act_ray.metrics import features, scores
from act_ray.metrics.features import INCEPTION_FILE, features_of, load_extractor
from act_ray.metrics.scores import WORST, diversity, finite, frechet_distance, reference_statistics, spread
from act_ray.pictures import to_uint8

CPU = torch.device("cpu")
CLASSIFIER = EvalConfig(features="classifier")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("ACT_RAY_CACHE", str(folder))
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_data("digits")


@pytest.fixture(scope="module")
def extractor(cache: Path, digits: ImageData) -> FeatureExtractorBase:
    return load_extractor(CLASSIFIER, digits, CPU)


def with_moments(mean: np.ndarray, cov: np.ndarray, n: int, seed: int) -> Tensor:
    """n samples whose mean and covariance are exactly these, so that the closed form has no sampling error."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(mean + x @ np.linalg.cholesky(cov).T)


# ---------------------------------------------------------------------------------------------- Frechet distance


def test_distance_of_gaussians_is_the_closed_form() -> None:
    """Diagonal: sum (m1-m2)^2 + (s1-s2)^2. Rotating both sides the same way changes nothing."""
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 8))
    s1, s2 = rng.uniform(0.5, 2, (2, 8))
    exact = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    for q in (np.eye(8), turn):
        a = with_moments(q @ m1, q @ np.diag(s1**2) @ q.T, 500, 1)
        b = with_moments(q @ m2, q @ np.diag(s2**2) @ q.T, 700, 2)
        assert frechet_distance(a, fid_features_to_statistics(b)) == pytest.approx(exact, rel=1e-6)
        assert frechet_distance(b, fid_features_to_statistics(a)) == pytest.approx(exact, rel=1e-6)


def test_distance_of_covariances_that_do_not_commute() -> None:
    """tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2) by eigenvalues."""
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 6, 6))
    c1, c2 = (r @ r.T + np.eye(6) for r in roots)
    values, vectors = np.linalg.eigh(c1)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    exact = np.trace(c1 + c2) - 2 * np.sqrt(np.linalg.eigvalsh(root @ c2 @ root)).sum()
    a, b = with_moments(np.zeros(6), c1, 400, 3), with_moments(np.zeros(6), c2, 400, 4)
    assert frechet_distance(a, fid_features_to_statistics(b)) == pytest.approx(exact, rel=1e-6)


def test_equal_sets_have_none() -> None:
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    assert abs(frechet_distance(x, fid_features_to_statistics(x))) < 1e-6


@pytest.mark.parametrize("n", [5, 40])
def test_features_without_full_rank(n: int) -> None:
    """Fewer samples than features, and features that never move: finite, about 0 against itself, not against others."""
    x = torch.randn(n, 24, generator=torch.Generator().manual_seed(0))
    x[:, ::2] = 0
    itself = frechet_distance(x, fid_features_to_statistics(x))
    other = frechet_distance(x + 1, fid_features_to_statistics(x))
    assert abs(itself) < 1e-3
    assert other == pytest.approx(24, abs=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_score_worst(bad: float) -> None:
    x = torch.randn(50, 4)
    reference = fid_features_to_statistics(x)
    x[7, 2] = bad
    assert frechet_distance(x, reference) == WORST


def test_finite() -> None:
    given = [None, float("nan"), float("inf"), -float("inf"), WORST, 2 * WORST, 0.0, 3.5, -1e-9]
    assert [finite(x) for x in given] == [WORST] * 6 + [0.0, 3.5, -1e-9]


# ---------------------------------------------------------------------------------------------- images


def test_to_uint8_rounds_to_the_nearest_and_inverts_the_input() -> None:
    levels = torch.arange(256)
    x = levels.float() / 127.5 - 1  # as fetch() maps pixels to [-1, 1]
    for nudge in (0, 0.49 / 127.5, -0.49 / 127.5):
        assert torch.equal(to_uint8(x + nudge), levels.to(torch.uint8))
    assert to_uint8(torch.tensor([-3.0, 3.0, -1.0, 1.0])).tolist() == [0, 255, 0, 255]
    assert to_uint8(x).dtype == torch.uint8


def test_diversity_of_data_is_1_and_of_one_image_0(digits: ImageData) -> None:
    assert diversity(torch.from_numpy(digits.images[400:656]), digits) == pytest.approx(1, abs=0.03)
    assert diversity(torch.from_numpy(digits.images[:1]).expand(256, -1, -1, -1), digits) == 0
    dull = 128 + (torch.from_numpy(digits.images[400:656]).float() - 128) / 2
    assert diversity(dull.to(torch.uint8), digits) == pytest.approx(0.5, abs=0.03)


def test_spread_is_the_mean_distance_of_pairs() -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    images[1] += 3  # 6 from both others, in 4 pixels
    assert spread(images) == pytest.approx((6 + 0 + 6) / 3)


# ---------------------------------------------------------------------------------------------- classifier


def test_the_classifier_tells_digits_apart(extractor: FeatureExtractorBase, digits: ImageData) -> None:
    assert digits.labels is not None
    with torch.no_grad():
        logits = extractor.net(torch.from_numpy(digits.images))[1]
    assert (logits.argmax(1).numpy() == digits.labels).mean() > 0.97


def test_what_training_makes_of_it_generalises(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the steps on two thirds of the data, so that the shipped weights are no one-off."""
    assert digits.labels is not None
    part = ImageData(digits.images[:1200], digits.labels[:1200], 10, "x", "part")
    monkeypatch.setattr(features, "STEPS", 150)
    net, again = features.train_classifier(part), features.train_classifier(part)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    with torch.no_grad():
        found = net(torch.from_numpy(digits.images[1200:]))[1].argmax(1).numpy()
    assert (found == digits.labels[1200:]).mean() > 0.8


def test_features_do_not_depend_on_the_batch(extractor: FeatureExtractorBase, digits: ImageData) -> None:
    images = torch.from_numpy(digits.images[:10])
    together = features_of(extractor, images)
    assert together.shape == (10, features.WIDTH)
    assert together.dtype == torch.float32
    alone = torch.cat([features_of(extractor, image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_loading_it_again_registers_nothing_twice(digits: ImageData, extractor: FeatureExtractorBase) -> None:
    again = load_extractor(CLASSIFIER, digits, CPU)
    images = torch.from_numpy(digits.images[:4])
    assert torch.equal(features_of(again, images), features_of(extractor, images))


def test_weights_are_trained_once_and_by_the_data(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(features, "STEPS", 1)
    trained = []
    original = features.train_classifier
    monkeypatch.setattr(features, "train_classifier", lambda data: trained.append(data.checksum) or original(data))
    for checksum in ("a" * 64, "b" * 64, "a" * 64):
        data = ImageData(rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), np.arange(20) % 2, 2, checksum, "colour")
        found = features_of(load_extractor(CLASSIFIER, data, CPU), torch.from_numpy(data.images))
        assert found.shape == (20, features.WIDTH)
    assert trained == ["a" * 64, "b" * 64]
    assert (cache / "features" / f"classifier-{'a' * 16}.safetensors").exists()


def test_data_without_labels_needs_inception(digits: ImageData) -> None:
    bare = ImageData(digits.images, None, 0, "c" * 64, "bare")
    with pytest.raises(UserError, match="bare has no labels to train one on; use eval"):
        load_extractor(CLASSIFIER, bare, CPU)


# ---------------------------------------------------------------------------------------------- reference statistics


def test_reference_statistics_are_those_of_all_images_and_computed_once(
    extractor: FeatureExtractorBase, digits: ImageData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference_statistics(extractor, digits)
    whole = features_of(extractor, torch.from_numpy(digits.images)).numpy()
    np.testing.assert_allclose(first["mu"], whole.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first["sigma"], np.cov(whole, rowvar=False), rtol=1e-3, atol=1e-4)
    files = sorted(p.name for p in (cache / "reference").glob("*.npz"))
    assert [name for name in files if digits.checksum[:16] in name]
    monkeypatch.setattr(scores, "features_of", lambda *_: pytest.fail("computed again"))
    again = reference_statistics(extractor, digits)
    assert all(np.array_equal(again[key], first[key]) for key in ("mu", "sigma"))


def test_reference_statistics_of_other_data_or_another_network_are_others(digits: ImageData, cache: Path) -> None:
    class Flat(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.scale * images.float().mean((2, 3)),)

        def get_name(self) -> str:
            return "flat"

    other = ImageData(digits.images[:50], None, 0, "d" * 64, "other")
    found = [reference_statistics(Flat(s), d)["mu"][0] for s, d in ((1.0, digits), (2.0, digits), (1.0, other))]
    assert found[1] == pytest.approx(2 * found[0])
    assert found[2] != pytest.approx(found[0], rel=1e-6)


# ---------------------------------------------------------------------------------------------- inception


def test_missing_inception_weights_are_named(digits: ImageData, tmp_path: Path) -> None:
    cfg = EvalConfig(features="inception", inception_weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError) as error:
        load_extractor(cfg, digits, CPU)
    assert str(tmp_path / "none.pth") in str(error.value)
    assert INCEPTION_FILE in str(error.value)
    assert "eval.features=classifier" in str(error.value)


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_in_place_of_the_weights_never_runs(writer: str, digits: ImageData, tmp_path: Path) -> None:
    path, sung = tmp_path / INCEPTION_FILE, tmp_path / "sung"
    if writer == "torch":
        torch.save({"w": Canary(str(sung))}, path)
    else:
        path.write_bytes(pickle.dumps(Canary(str(sung)), protocol=2))
    with pytest.raises(UserError, match=r"inception.*not a plain file of weights"):
        load_extractor(EvalConfig(features="inception", inception_weights=str(path)), digits, CPU)
    assert not sung.exists()
