"""How much samples differ from each other, beside how much real images do."""

import numpy as np
import torch
from torch import Tensor

from act_ray.data.shards import ImageData

DIVERSITY_IMAGES = 256


def diversity(samples: Tensor, data: ImageData) -> float:
    """Mean pairwise distance of samples over that of real images; uint8 [n,C,H,W]. About 1 healthy, 0 all alike."""
    index = np.random.default_rng(0).choice(len(data.images), min(DIVERSITY_IMAGES, len(data.images)), replace=False)
    real = torch.from_numpy(data.images[np.sort(index)])
    return spread(samples[:DIVERSITY_IMAGES]) / spread(real)


def spread(images: Tensor) -> float:
    """Mean Euclidean distance over all pairs of images."""
    return float(torch.pdist(images.flatten(1).float()).mean())
