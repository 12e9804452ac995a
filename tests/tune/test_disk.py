"""What a search's checkpoints take, told before it starts."""

from pathlib import Path
from typing import Any

import pytest

from act_ray import settings
from act_ray.data.shards import open_data
from act_ray.files import in_units
from act_ray.train.sizes import checkpoint_bytes, describe_uploads
from act_ray.tune.disk import describe_disk
from act_ray.tune.space_files import parse_space
from tests.helpers.tiny_runs import go, newest, tiny
from tests.helpers.tiny_settings import DIFFUSION


@pytest.mark.parametrize(
    "more", [{}, {"loss.w": 0.0, "loss.w_mid": 0.0}, {"discriminator.kind": "stylegan2"}, DIFFUSION]
)
def test_a_checkpoint_takes_what_was_said(more: dict[str, Any], tmp_path: Path) -> None:
    cfg = tiny({**more, "train.total_steps": 2})
    go(cfg, tmp_path)
    real = sum(path.stat().st_size for path in newest(tmp_path).glob("*.safetensors"))
    _, channels, size, _ = open_data(cfg.data.path).images.shape
    said = checkpoint_bytes(cfg, channels, size)
    assert said < real < 1.4 * said + 40_000  # the names of the tensors are in the files, too


def test_the_largest_trial_counts_and_what_is_free_is_said(tmp_path: Path) -> None:
    raw = {
        "preset": "digits",
        "trials": 6,
        "parameters": {"model.block_out_channels": {"choice": [[16, 32], [64, 128]]}},
    }
    (line,) = describe_disk(parse_space(raw, "x"), str(tmp_path / "not" / "yet"))
    cfg = settings.load("digits", {"model.block_out_channels": [64, 128]})
    one = checkpoint_bytes(cfg, 1, 8)
    assert line.startswith(f"disk: a checkpoint takes {in_units(one)}; 5 at most of each of 6 trials")
    assert f": {in_units(30 * one)}, and " in line
    assert line.endswith(" are free")
    (remote,) = describe_disk(parse_space(raw, "x"), "s3://bucket/runs")
    assert "free" not in remote
    every = cfg.checkpoint.every, cfg.eval.every, cfg.train.total_steps
    count = sum(any(step % n == 0 for n in every) for step in range(1, cfg.train.total_steps + 1))
    assert remote.endswith(f"; at most {6 * count} are uploaded: {in_units(6 * count * one)}")
    (line,) = describe_uploads(cfg, "s3://bucket/run")
    assert f"{in_units(one)}; at most {count} in the whole run: {in_units(count * one)}; 5 at most stay" in line
    assert describe_uploads(cfg, str(tmp_path)) == []
