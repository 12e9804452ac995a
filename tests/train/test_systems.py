"""Every system of the paper through the loop: killed and resumed, each ends as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.tiny_runs import assert_same_run, go, killed_at, newest, tensors, tiny

SYSTEMS: dict[str, dict[str, Any]] = {
    "diffusion": {"train.method": "diffusion", "eval.ode_steps": 3},
    "conditional": {"discriminator.conditional": True},
    "stylegan2": {"discriminator.kind": "stylegan2", "discriminator.channel_base": 64, "discriminator.channel_max": 8},
    "projected": {
        "discriminator.kind": "projected",
        "discriminator.feature_weights": "random",
        "discriminator.feature_size": 64,
    },
}


SHORT: dict[str, Any] = {"train.total_steps": 6, "train.global_batch": 4, "checkpoint.every": 2, "eval.every": 6}


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system_trains_scores_and_resumes(system: str, tmp_path: Path) -> None:
    cfg = tiny(SYSTEMS[system] | SHORT)
    reports = go(cfg, tmp_path / "whole")
    assert [report["outcome"] for report in reports] == ["completed"]
    killed_at(cfg, tmp_path / "killed", 5)
    go(cfg, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    first, last = tensors(tmp_path / "whole" / "checkpoints" / "step-00000004"), tensors(newest(tmp_path / "whole"))
    still = {name for name in first if name.startswith("discriminator/") and first[name].equal(last[name])}
    if system == "projected":  # its features never move, and nothing else stays
        assert len(still) > 50
    assert all(".features." in name or "/features." in name for name in still) or system == "diffusion"
