"""What a search says of trials without a place, as the cluster changes; on Ray: tests/cluster/test_autoscaler.py."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from act_ray.ray_autoscaler import Growth, Largest, NodeType
from act_ray.tune import ray_waiting
from act_ray.tune.ray_placement import Placement

ONE_CPU = {"CPU": 1.0}
NONE = Growth(up=0, coming=0, free=(), failed="", waiting=((ONE_CPU,),), refused=())


def said(monkeypatch: pytest.MonkeyPatch, cluster: list[Growth], second: float = 1.0) -> list[str | None]:
    """The lines, where the cluster is so at each look, the looks are `second` seconds apart and a node has a CPU."""
    place = Placement(ONE_CPU, concurrent=2, gpu=False, threads=1, why="", grows=True)
    waiting = ray_waiting.Waiting(place)
    waiting.full = Largest(2, (NodeType("worker", 2, ONE_CPU),), NodeType("head", 1, {}))
    clock, states = iter(range(100, 1000)), iter(cluster)
    monkeypatch.setattr(ray_waiting, "time", SimpleNamespace(monotonic=lambda: next(clock) * second))
    monkeypatch.setattr(ray_waiting, "growth", lambda: next(states))
    lines = [waiting.look() for _ in cluster]
    return [*lines, waiting.never]


def test_each_change_is_said_once_and_only_once_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    both = replace(NONE, coming=2, waiting=((ONE_CPU,), (ONE_CPU,)))
    lost = replace(NONE, up=1, coming=1)  # a node that is lost is up until Ray has missed its heartbeats
    found = replace(NONE, up=1, waiting=())
    passing = replace(NONE, up=1, free=(ONE_CPU,))  # there is room, which Ray has still to give
    cluster = [both, both, both, both, found, lost, lost, lost, replace(NONE, coming=1), passing, found, lost]
    lines = said(monkeypatch, cluster)
    two = "2 trials wait for 1 CPU each: 0 of 2 nodes up, the autoscaler has asked for 2"
    one = "1 trial waits for 1 CPU: {} of 2 nodes up, the autoscaler has asked for 1"
    assert lines == [None, None, two, None, None, None, None, one.format(1), one.format(0), None, None, None, None]


def test_an_autoscaler_that_has_no_such_node_ends_the_search_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = replace(NONE, refused=((ONE_CPU,),))
    *lines, never = said(monkeypatch, [refused] * 5, second=8.0)
    none = "1 trial waits for 1 CPU: 0 of 2 nodes up, and the autoscaler asks for none"
    assert lines == [None, None, none, None, None]
    assert never == "a trial needs 1 CPU, and the autoscaler has no nodes that give it; try fewer --workers-per-trial"
