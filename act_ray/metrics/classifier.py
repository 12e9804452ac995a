"""A small network trained to tell the data's own classes apart, whose hidden layer gives the features.

For data on which Inception says little (8x8 digits). Unlabelled data: self_supervised.py.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from act_ray.data.shards import ImageData
from act_ray.errors import UserError
from act_ray.files import cache_dir, locked, replace_atomically
from act_ray.metrics.learning import Say, learn, seeded
from act_ray.written import remove, seal, sealed

WIDTH = 64  # features
LARGEST = 64  # side in pixels that it sees: larger images are averaged down
STEPS, BATCH = 1500, 128
PACKAGED = Path(__file__).parent / "weights"


class Classifier(nn.Module):
    """Three convolutions and a hidden layer of 64; uint8 [B,C,H,W] -> features [B,64], logits [B,classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(64 * 4, WIDTH)
        self.out = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first, *rest = self.conv
        assert isinstance(first, nn.Conv2d)
        x = images.float() / 127.5 - 1
        if x.shape[-1] > LARGEST:
            x = F.interpolate(x, size=(LARGEST, LARGEST), mode="area")
        stride = 2 if x.shape[-1] >= 32 else 1  # training it on 32x32 images then takes a minute on two cores
        h = F.conv2d(x, first.weight, first.bias, stride=stride, padding=1)
        for layer in rest:
            h = layer(h)
        h = F.adaptive_avg_pool2d(h, 2).flatten(1)
        features = F.relu(self.hidden(h))
        return features, self.out(features)


def train_classifier(data: ImageData, say: Say = lambda line: None, partial: Path | None = None) -> Classifier:
    """Train the classifier on labelled images: up to 1,500 steps, seconds for 8x8, about a minute for 32x32."""
    assert data.labels is not None
    images, labels = data.images, data.labels
    net = seeded(lambda: Classifier(images.shape[1], data.num_classes))

    def loss(rng: np.random.Generator) -> Tensor:
        chosen = rng.integers(0, len(images), BATCH)
        return F.cross_entropy(net(torch.from_numpy(images[chosen]))[1], torch.from_numpy(labels[chosen]))

    learn(net, loss, STEPS, "classifier behind the score", say, partial)
    return net


def classifier_weights(data: ImageData, say: Say = lambda line: None) -> Path:
    """The classifier's weights for this data, by its checksum: shipped with the package, cached, or trained now."""
    if data.labels is None:
        raise UserError(
            f"eval.features = 'classifier': {data.name} has no labels to train one on; use "
            "eval.features=self_supervised"
        )
    name = f"classifier-{data.checksum[:16]}"
    if (shipped := PACKAGED / f"{name}.safetensors").exists():
        return shipped
    about = f"training the classifier behind the score on {data.name}, once: {STEPS:,} steps at most"
    return cached_weights(name, about, say, lambda partial: train_classifier(data, say, partial))


def cached_weights(name: str, about: str, say: Say, train: Callable[[Path], nn.Module]) -> Path:
    """The file of a network's weights in the cache; `train`, given a file for its state so far, makes them once.

    Damaged ones are made again.
    """
    cached = cache_dir("features") / f"{name}.safetensors"
    partial = cached.with_suffix(".partial")
    with locked(cached.with_suffix(".lock")):
        if not sealed(cached):
            say(about)
            weights = train(partial).state_dict()
            replace_atomically(cached, lambda temporary: save_file(weights, temporary))
            seal(cached)
            remove(partial)
    return cached


class ClassifierFeatures(nn.Module):
    """A trained Classifier as a feature network called `name`: uint8 [B,3,H,W] (grey repeated) -> features [B,64]."""

    def __init__(self, weights_file: Path, name: str = "act-ray-classifier") -> None:
        super().__init__()
        self.name = name
        weights = load_file(weights_file)
        self.channels = weights["conv.0.weight"].shape[1]
        self.net = Classifier(self.channels, len(weights["out.bias"]))
        self.net.load_state_dict(weights)
        self.requires_grad_(False).eval()

    def get_name(self) -> str:
        return self.name

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.net(images[:, : self.channels])[0],)
