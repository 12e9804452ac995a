"""The score during training."""

import pytest

from act_ray.data.shards import open_data
from act_ray.train import scoring
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import tiny


def test_real_images_are_scored_by_the_first_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "reference_statistics", lambda *_: pytest.fail("a pass over all images"))
    ranks = Ranks()
    ranks.rank = 1
    scoring.Scorer(tiny(), open_data("digits"), ranks, print)
