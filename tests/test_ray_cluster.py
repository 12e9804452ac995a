"""Joining and leaving Ray."""

from typing import Any

import pytest
import ray
from ray._private import auto_init_hook

from act_ray import ray_cluster
from act_ray.errors import Interrupted


def test_a_thread_that_outlives_an_interruption_joins_no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's calls start, or join, some cluster by themselves where there is none."""
    joined: list[Any] = []
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", True)
    monkeypatch.setattr(ray_cluster, "_start", lambda *_: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", joined.append)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Interrupted), ray_cluster.connected():
        raise Interrupted("go on")
    auto_init_hook.auto_init_ray()
    assert joined == []
