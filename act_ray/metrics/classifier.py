"""A small network trained to tell the data's own classes apart, whose hidden layer gives the features.

For data on which Inception says little (8x8 digits), or where its weights cannot be had.
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
from act_ray.progress_bar import ProgressBar

WIDTH = 64  # features
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
        stride = 2 if images.shape[-1] >= 32 else 1  # training it on 32x32 images then takes a minute on two cores
        h = F.conv2d(images.float() / 127.5 - 1, first.weight, first.bias, stride=stride, padding=1)
        for layer in rest:
            h = layer(h)
        h = F.adaptive_avg_pool2d(h, 2).flatten(1)
        features = F.relu(self.hidden(h))
        return features, self.out(features)


def train_classifier(data: ImageData, seed: int = 0, say: Callable[[str], None] = lambda line: None) -> Classifier:
    """Train the classifier on labelled images: 1,500 steps of Adam, seconds for 8x8, about a minute for 32x32."""
    assert data.labels is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(data.images.shape[1], data.num_classes)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    rng = np.random.default_rng(seed)
    with ProgressBar("classifier behind the score", STEPS, "steps", say) as progress:
        for _ in range(STEPS):
            index = rng.integers(0, len(data.images), BATCH)
            images = torch.from_numpy(data.images[index])
            loss = F.cross_entropy(net(images)[1], torch.from_numpy(data.labels[index]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress.advance(1)
    return net.eval()


def classifier_weights(data: ImageData, say: Callable[[str], None] = lambda line: None) -> Path:
    """The classifier's weights for this data, by its checksum: shipped with the package, cached, or trained now."""
    if data.labels is None:
        raise UserError(
            f"eval.features = 'classifier': {data.name} has no labels to train one on; use eval.features=inception"
        )
    name = f"classifier-{data.checksum[:16]}.safetensors"
    if (PACKAGED / name).exists():
        return PACKAGED / name
    cached = cache_dir("features") / name
    with locked(cached.with_suffix(".lock")):
        if not cached.exists():
            say(f"training the classifier behind the score on {data.name}, once: {STEPS:,} steps")
            weights = train_classifier(data, say=say).state_dict()
            replace_atomically(cached, lambda temporary: save_file(weights, temporary))
    return cached


class ClassifierFeatures(nn.Module):
    """The classifier as a feature network: uint8 [B,3,H,W] (grey repeated) -> features [B,64]."""

    def __init__(self, weights_file: Path) -> None:
        super().__init__()
        weights = load_file(weights_file)
        self.channels = weights["conv.0.weight"].shape[1]
        self.net = Classifier(self.channels, len(weights["out.bias"]))
        self.net.load_state_dict(weights)
        self.requires_grad_(False).eval()

    def get_name(self) -> str:
        return "act-ray-classifier"

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.net(images[:, : self.channels])[0],)
