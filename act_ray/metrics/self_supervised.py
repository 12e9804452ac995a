"""Features of images without labels: the classifier's network, which learns from the images alone.

It learns two things about an image that its content decides: by how many quarters it was turned (Gidaris et al. 2018),
and in which of 16 clusters it lies (DeepCluster, Caron et al. 2018) by a fixed random convolution. docs/results.md has
what else was tried, and how its Frechet distance agrees with that of a classifier.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from act_ray.data.shards import ImageData
from act_ray.device import threads
from act_ray.errors import UserError
from act_ray.metrics.classifier import LARGEST, Classifier, cached_weights
from act_ray.metrics.learning import Say, learn, seeded

IMAGES = 5_000  # that it learns from, evenly spread over the data
STEPS, BATCH = 150, 128
CLUSTERS, TURNS = 16, 4
FILTERS, SCALES, COMPONENTS = 32, 3, 32
THREADS = 2
VERSION = 2


def self_supervised_weights(data: ImageData, say: Say = lambda line: None) -> Path:
    """The network's weights for this data, by its checksum: cached, or trained now in seconds."""
    if len(data.images) < 2:
        raise UserError(
            f"eval.features = 'self_supervised': {data.name} has {len(data.images)} image; needs 2, or use "
            "eval.features=none"
        )
    about = f"learning the features behind the score from {data.name}, once: {STEPS} steps"
    name = f"self-supervised-{data.checksum[:16]}-v{VERSION}"
    return cached_weights(name, about, say, lambda partial: train_self_supervised(data, say, partial))


def train_self_supervised(data: ImageData, say: Say = lambda line: None, partial: Path | None = None) -> Classifier:
    """Learn from unlabelled images; on as many threads everywhere, so that every run gives the same bits."""
    spread = np.linspace(0, len(data.images) - 1, min(IMAGES, len(data.images))).astype(np.int64)
    images = np.asarray(data.images[spread])
    net = seeded(lambda: Classifier(images.shape[1], CLUSTERS + TURNS)).to(memory_format=torch.channels_last)
    quarters = torch.arange(BATCH) % TURNS
    with threads(THREADS):
        groups = torch.from_numpy(clusters(images))

        def loss(rng: np.random.Generator) -> Tensor:
            chosen = rng.integers(0, len(images), BATCH)
            batch = torch.from_numpy(images[chosen])
            for turn in range(1, TURNS):
                batch[turn::TURNS] = torch.rot90(batch[turn::TURNS], turn, (2, 3))
            logits = net(batch.to(memory_format=torch.channels_last))[1]
            group, turned = logits[:, :CLUSTERS], logits[:, CLUSTERS:]
            return F.cross_entropy(group, groups[chosen]) + F.cross_entropy(turned, quarters)

        learn(net, loss, STEPS, "features behind the score", say, partial)
    return net.to(memory_format=torch.contiguous_format)


def clusters(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which of 16 clusters each image [n,C,H,W] lies in: k-means on the whitened means of random convolutions."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    parts = np.array_split(images, -(-len(images) // 50))  # more would not fit into the caches of a core
    described = np.concatenate([describe(torch.from_numpy(part)) for part in parts])
    with threadpool_limits(1):  # several add up in an order of their own
        least = min(COMPONENTS, *described.shape)
        whitened = PCA(least, whiten=True, svd_solver="covariance_eigh").fit_transform(described)
        means = KMeans(min(CLUSTERS, len(images)), n_init=1, max_iter=20, random_state=0)
        return np.asarray(means.fit_predict(whitened), np.int64)


@torch.no_grad()
def describe(images: Tensor) -> NDArray[np.float64]:
    """uint8 [B,C,H,W] -> what 32 random 3x3 filters answer in each quarter, at up to three scales: [B,128 s]."""
    x = images.float() / 127.5 - 1
    if x.shape[-1] > LARGEST:
        x = F.interpolate(x, size=(LARGEST, LARGEST), mode="area")
    generator = torch.Generator().manual_seed(0)
    answers = []
    for _ in range(SCALES):
        filters = torch.randn(FILTERS, x.shape[1], 3, 3, generator=generator)
        filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
        answer = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), filters))
        answers.append(F.adaptive_avg_pool2d(answer, 2).flatten(1))
        if x.shape[-1] < 8:
            break
        x = F.avg_pool2d(x, 2)
    return torch.cat(answers, 1).double().numpy()
