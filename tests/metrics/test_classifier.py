"""The classifier behind a score: what it learns, and that it is trained once per data set."""

from pathlib import Path

import numpy as np
import pytest
import torch

from act_ray import progress_bar
from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData, open_data
from act_ray.errors import UserError
from act_ray.metrics import classifier
from act_ray.metrics.classifier import WIDTH, train_classifier
from act_ray.metrics.features import FeatureNetwork, compute_features, load_network

CPU = torch.device("cpu")
CLASSIFIER = EvalConfig(features="classifier")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_data("digits")


@pytest.fixture
def network(digits: ImageData) -> FeatureNetwork:
    return load_network(CLASSIFIER, digits, CPU)


def test_the_classifier_tells_digits_apart(network: FeatureNetwork, digits: ImageData) -> None:
    assert digits.labels is not None
    with torch.no_grad():
        logits = network.net(torch.from_numpy(digits.images))[1]
    assert (logits.argmax(1).numpy() == digits.labels).mean() > 0.97


def test_what_training_makes_of_it_generalises(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the steps on two thirds of the data, so that the shipped weights are no one-off."""
    assert digits.labels is not None
    part = ImageData(digits.images[:1200], digits.labels[:1200], 10, "x", "part")
    monkeypatch.setattr(classifier, "STEPS", 150)
    net, again = train_classifier(part), train_classifier(part)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    with torch.no_grad():
        found = net(torch.from_numpy(digits.images[1200:]))[1].argmax(1).numpy()
    assert (found == digits.labels[1200:]).mean() > 0.8


def test_features_do_not_depend_on_the_batch(network: FeatureNetwork, digits: ImageData) -> None:
    images = torch.from_numpy(digits.images[:10])
    together = compute_features(network, images)
    assert together.shape == (10, WIDTH)
    assert together.dtype == torch.float32
    alone = torch.cat([compute_features(network, image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_weights_are_trained_once_and_by_the_data(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(classifier, "STEPS", 1)
    trained = []
    original = train_classifier
    monkeypatch.setattr(
        classifier, "train_classifier", lambda data, say, partial: trained.append(data.checksum) or original(data)
    )
    for checksum in ("a" * 64, "b" * 64, "a" * 64):
        data = ImageData(rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), np.arange(20) % 2, 2, checksum, "colour")
        found = compute_features(load_network(CLASSIFIER, data, CPU), torch.from_numpy(data.images))
        assert found.shape == (20, WIDTH)
    assert trained == ["a" * 64, "b" * 64]
    assert (own_cache / "features" / f"classifier-{'a' * 16}.safetensors").exists()


def test_data_without_labels_has_features_of_its_own(digits: ImageData) -> None:
    bare = ImageData(digits.images, None, 0, "c" * 64, "bare")
    with pytest.raises(UserError, match="bare has no labels to train one on; use eval"):
        load_network(CLASSIFIER, bare, CPU)


def test_a_long_training_says_now_and_then_how_far_it_is(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 3)
    monkeypatch.setattr(progress_bar, "QUIET_S", -1.0)  # each step takes longer than this
    data = ImageData(np.zeros((20, 3, 8, 8), np.uint8), np.arange(20) % 2, 2, "e" * 64, "colour")
    said = list[str]()
    load_network(CLASSIFIER, data, CPU, said.append)
    assert said[0] == "training the classifier behind the score on colour, once: 3 steps at most"
    assert said[1:] == [f"classifier behind the score: {step} of 3 steps" for step in (1, 2, 3)]
