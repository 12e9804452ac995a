"""Steps as CUDA graphs: without a GPU, what runs the same operations again on the same memory stands for a graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from act_ray import settings
from act_ray.core.noise import Noise
from act_ray.core.step import Backward, Metrics, TrainState, backward, train_step
from act_ray.data.shards import open_data
from act_ray.train import graphs
from act_ray.train.graphs import Graphs
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state
from tests.helpers.tiny_settings import TINY

CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "augmented": {"augment.enabled": True, "augment.tau": 1e-4},
    "micro-batches": {"train.micro_batch": 4},
    "steered": {"collapse.action": "steer"},
}


def again_on_the_same_memory(
    run: Callable[[], list[Metrics]], pool: object
) -> tuple[Callable[[], object], list[Metrics]]:
    """What graphs.capture gives: a replay writes to where the recording's results are."""
    rows = run()
    weights = [p for group in run.__closure__ or () for p in _weights(group.cell_contents)]
    kept = [p.grad for p in weights]

    def replay() -> None:
        for weight in weights:
            weight.grad = None
        for row, new in zip(rows, run(), strict=True):
            for name, value in new.items():
                row[name].copy_(value)
        for weight, gradient in zip(weights, kept, strict=True):
            if gradient is not None and weight.grad is not None:
                gradient.copy_(weight.grad)

    return replay, rows


def _weights(thing: object) -> list[torch.nn.Parameter]:
    return list(thing.parameters()) if isinstance(thing, torch.nn.Module) else []


def steps(change: dict[str, Any], count: int, taken_by: Backward) -> tuple[TrainState, list[dict[str, float]]]:
    cfg = settings.load("digits", {**TINY, "train.global_batch": 8, "train.total_steps": 60, "schedule.s1": 4,
                                   "loss.gp_interval": 3, **change})  # fmt: skip
    data = open_data("digits")
    state = build_state(cfg, data, Ranks(), print)
    state.backward = taken_by
    x = torch.from_numpy(data.images[:8]).float() / 127.5 - 1
    rows = [train_step(state, x.roll(k, 0), None, Noise(0, k, x.device), cfg.step) for k in range(count)]
    return state, [{name: float(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_replayed_steps_are_the_launched_ones(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit over several N, with and without the penalty."""
    monkeypatch.setattr(graphs, "capture", again_on_the_same_memory)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    replays = []
    replay = graphs.Recording.replay
    monkeypatch.setattr(graphs.Recording, "replay", lambda *a: replays.append(1) or replay(*a))
    replayed, rows = steps(change, 18, Graphs(Ranks(), print))
    assert len(replays) > 12
    launched, want = steps(change, 18, backward)
    assert rows == want
    for ours, theirs in zip(replayed.model.parameters(), launched.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(replayed.D.parameters(), launched.D.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_recorded_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: object, pool: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "capture", refuse)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    _, rows = steps({}, 6, Graphs(Ranks(), print))
    assert rows == steps({}, 6, backward)[1]
