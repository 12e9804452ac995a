"""The score during training."""

import json
from pathlib import Path

import pytest

from act_ray.data.shards import open_data
from act_ray.generators.reading import read_generator
from act_ray.train import scoring
from act_ray.train.follow import describe_scores
from act_ray.train.ranks import Ranks
from tests.helpers.tiny_runs import go, tiny


def test_real_images_are_scored_by_the_first_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "reference_statistics", lambda *_: pytest.fail("a pass over all images"))
    ranks = Ranks()
    ranks.rank = 1
    scoring.Scorer(tiny(), open_data("digits"), ranks, print)


def test_without_features_there_is_no_score(tmp_path: Path) -> None:
    """Grids, diversity and the newest checkpoints are there all the same."""
    report = go(tiny({"eval.features": "none"}), tmp_path / "run")[-1]
    assert (report["outcome"], report["step"], report["best_step"]) == ("completed", 12, None)
    rows = [json.loads(line) for line in (tmp_path / "run/scores.jsonl").read_text().splitlines()]
    assert [(row["step"], row["score"], row["diversity"] > 0) for row in rows] == [
        (5, None, True),
        (10, None, True),
        (12, None, True),
    ]
    assert describe_scores(rows[0]).startswith("no score, diversity ")
    assert len(list((tmp_path / "run/samples").iterdir())) == 3
    assert read_generator(str(tmp_path / "run")).step == 12
