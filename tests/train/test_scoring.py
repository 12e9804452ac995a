"""The score during training."""

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from act_ray.data.shards import open_data
from act_ray.errors import StorageError
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


def test_a_disk_that_is_full_while_features_are_learnt_is_a_line(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("act_ray.metrics.learning.save_file", full)
    monkeypatch.setattr("act_ray.metrics.learning.KEPT_EVERY", 1)
    with pytest.raises(StorageError, match=f"{own_cache}: what is learnt of the images cannot be written: No space"):
        scoring.Scorer(tiny({"eval.features": "self_supervised"}), open_data("digits"), Ranks(), print)


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
