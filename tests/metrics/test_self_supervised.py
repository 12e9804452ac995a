"""Features of unlabelled images: the same bits each time, better for better samples, kept part of the way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData, open_data
from act_ray.device import threads
from act_ray.errors import UserError
from act_ray.metrics import self_supervised
from act_ray.metrics.features import compute_features, load_network
from act_ray.metrics.frechet import frechet_distance
from act_ray.metrics.reference import reference_statistics
from act_ray.metrics.scores import metric_name, resolve_features
from act_ray.metrics.self_supervised import clusters, train_self_supervised
from tests.helpers.tiny_runs import tiny

CPU = torch.device("cpu")
SELF_SUPERVISED = EvalConfig(features="self_supervised", samples=500)


@pytest.fixture(scope="module")
def unlabelled() -> ImageData:
    digits = open_data("digits")
    return ImageData(digits.images, None, 0, digits.checksum, "digits without labels")


def test_the_worse_the_images_the_higher_the_score(unlabelled: ImageData, own_cache: Path) -> None:
    network = load_network(SELF_SUPERVISED, unlabelled, CPU)
    real = reference_statistics(network, unlabelled)
    rng, images = np.random.default_rng(0), unlabelled.images[:600]

    def score(made: np.ndarray) -> float:
        return frechet_distance(compute_features(network, torch.from_numpy(made)), real)

    noisy = [np.clip(images + rng.normal(0, s, images.shape), 0, 255).astype(np.uint8) for s in (0, 30, 60, 120)]
    found = [score(made) for made in noisy]
    assert found == sorted(found)
    assert found[1] > 2 * found[0]
    assert score(np.repeat(images[:6], 100, 0)) > found[1]  # six of them again and again
    shuffled = images.reshape(600, -1)[:, rng.permutation(64)].reshape(images.shape)
    assert score(shuffled) > found[2]
    assert metric_name(SELF_SUPERVISED) == "FD (self_supervised features, 500 samples)"


def test_the_same_bits_with_any_number_of_threads(unlabelled: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_supervised, "STEPS", 20)
    nets = []
    for count in (1, 2):
        with threads(count):
            nets.append(train_self_supervised(unlabelled))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_an_interrupted_training_goes_on_where_it_was(
    unlabelled: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("act_ray.metrics.learning.KEPT_EVERY", 10)
    monkeypatch.setattr(self_supervised, "STEPS", 25)
    whole, said = train_self_supervised(unlabelled), list[str]()
    monkeypatch.setattr(self_supervised, "STEPS", 20)
    train_self_supervised(unlabelled, partial=tmp_path / "partial")
    monkeypatch.setattr(self_supervised, "STEPS", 25)
    monkeypatch.setattr("act_ray.progress_bar.QUIET_S", 0)
    resumed = train_self_supervised(unlabelled, said.append, tmp_path / "partial")
    assert said[0] == "features behind the score: 21 of 25 steps"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_few_images_and_large_ones() -> None:
    rng = np.random.default_rng(0)
    assert set(clusters(rng.integers(0, 256, (3, 3, 4, 4), dtype=np.uint8))) == {0, 1, 2}
    assert clusters(rng.integers(0, 256, (20, 1, 96, 96), dtype=np.uint8)).max() <= 15


def test_a_single_image_teaches_nothing(unlabelled: ImageData) -> None:
    one = replace(unlabelled, images=unlabelled.images[:1])
    with pytest.raises(UserError, match=r"digits without labels has 1 image; needs 2, or use eval\.features=none"):
        load_network(SELF_SUPERVISED, one, CPU)


def test_auto_takes_inception_where_its_weights_are(tmp_path: Path) -> None:
    there, away = tmp_path / "inception.pth", tmp_path / "none.pth"
    there.touch()
    for weights, features in ((there, "inception"), (away, "self_supervised")):
        cfg = resolve_features(tiny({"eval.features": "auto", "eval.inception_weights": str(weights)}))
        assert cfg.eval.features == features
    assert resolve_features(tiny({"eval.features": "classifier"})).eval.features == "classifier"
