"""Ray Train for real: two workers equal one, and a mistake comes back (lost ones: tests/faults)."""

from pathlib import Path

import pytest

from act_ray import settings
from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train_here
from act_ray.train.ray_workers import fit
from tests.helpers.tiny_settings import ON_RAY


def test_two_workers_score_like_one(cluster: None, tmp_path: Path) -> None:
    cfg = settings.load("digits", ON_RAY)
    one = train_here(cfg, str(tmp_path / "one"))
    two = fit(cfg, str(tmp_path / "two"), workers=2)
    assert two["outcome"] == one["outcome"] == "completed"
    assert two["score"] == pytest.approx(one["score"], rel=1e-3)
    rows = [[row["loss_f"] for row in RunFolder(str(tmp_path / n)).rows("metrics.jsonl")] for n in ("one", "two")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_a_mistake_that_only_workers_see_comes_back_as_one_line(cluster: None, tmp_path: Path) -> None:
    cfg = settings.load("digits", {**ON_RAY, "data.path": "/nowhere"})
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        fit(cfg, str(tmp_path / "run"), workers=1)
