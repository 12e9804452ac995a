"""The periodic score: one-step samples from fixed noise, spread over the workers, and what they look like."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from act_ray.config import Config
from act_ray.data.shards import ImageData, label_counts
from act_ray.generators.sampling import draw_batch
from act_ray.metrics.diversity import DIVERSITY_IMAGES, diversity
from act_ray.metrics.features import compute_features, load_network
from act_ray.metrics.frechet import frechet_distance
from act_ray.metrics.reference import reference_statistics
from act_ray.pictures import to_uint8
from act_ray.runs.failing_storage import keeping_features
from act_ray.train.ranks import Ranks

T = TypeVar("T")


def kept(make: Callable[..., T], *args: Any) -> T:
    """What `make` finds in the cache, or puts there; a disk that is full is a line."""
    with keeping_features():
        return make(*args)


class Scorer:
    """Feature network and reference statistics of one data set, ready to score a generator."""

    def __init__(self, cfg: Config, data: ImageData, ranks: Ranks, note: Callable[[str], None]) -> None:
        self.cfg, self.data, self.ranks = cfg, data, ranks
        self.classes = label_counts(data)
        self.network = ranks.together(
            lambda: None if cfg.eval.features == "none" else kept(load_network, cfg.eval, data, ranks.device, note)
        )
        if self.network is not None and cfg.eval.features != "inception":
            # It was trained here: on another machine the last bits may be others.
            self.network.load_state_dict(ranks.from_first(self.network.state_dict()))
        self.reference = ranks.together(  # a pass over all images, which only the first worker's score needs
            lambda: (
                {} if self.network is None or not ranks.first else kept(reference_statistics, self.network, data, note)
            )
        )

    def __call__(self, models: Mapping[str, nn.Module]) -> tuple[dict[str, float], Tensor]:
        """The score of each model by its name, and the diversity and grid images uint8 [grid,C,H,W] of the first.

        {"score", "diversity", "score_NAME", ...}; the same on every worker, "score" being that of the first; None
        with eval.features = none. The images are on rank 0 alone.
        """
        (first, model), *others = models.items() if self.network is not None else list(models.items())[:1]
        result: dict[str, Any] = {}
        score, images = self._score(model, max(self.cfg.eval.grid, DIVERSITY_IMAGES))
        scores = {first: score} | {name: self._score(other, 0)[0] for name, other in others}
        if self.ranks.first:
            result = {"score": score, "diversity": diversity(images, self.data)}
            if self.network is not None:
                result |= {f"score_{name}": value for name, value in scores.items()}
        return self.ranks.from_first(result), images[: self.cfg.eval.grid]

    def _score(self, model: nn.Module, kept: int) -> tuple[float | None, Tensor]:
        """A model's Frechet distance (on the first worker, nan on the others), and its first `kept` images, there.

        Worker r draws the batches r, r + W, ...; features are put back in order, so W does not change the score.
        """
        n, size, ranks = self.cfg.eval.samples, self.cfg.eval.batch, self.ranks
        if self.network is None:
            n = kept
        shape = self.data.images.shape[1:]
        batches = [range(start, min(start + size, n)) for start in range(0, n, size)]
        mine = []
        for i in range(ranks.rank, len(batches), ranks.world):
            images = to_uint8(draw_batch(model, self.cfg, shape, self.classes, i, len(batches[i]), ranks.device)[0])
            images_kept = images.cpu().numpy() if batches[i].start < kept else None
            features = None if self.network is None else compute_features(self.network, images).numpy()
            mine.append((i, features, images_kept))
        parts = sorted((part for worker in ranks.to_first(mine) for part in worker), key=lambda part: part[0])
        seen = [part[2] for part in parts if part[2] is not None]
        images = torch.from_numpy(np.concatenate(seen))[:kept] if seen else torch.empty(0)
        if self.network is None:
            return None, images
        if not ranks.first:
            return math.nan, images
        return frechet_distance(torch.from_numpy(np.concatenate([part[1] for part in parts])), self.reference), images
