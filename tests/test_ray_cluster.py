"""Joining and leaving Ray."""

import stat
from pathlib import Path
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


def test_rays_token_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made before Ray makes one that all can read, and made private where such a one is there already."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    ray_cluster.keep_token_private()
    text = token.read_text()
    assert len(text) == 64
    assert [*token.parent.iterdir()] == [token]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    token.chmod(0o644)
    ray_cluster.keep_token_private()
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == (text, 0o600)
