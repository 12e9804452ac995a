"""Building a run's state: what is compiled, and what stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from act_ray.data.shards import open_data
from act_ray.runs.folder import RunFolder
from act_ray.train import setup
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun
from tests.helpers.tiny_runs import go, newest, rows, tensors, tiny
from tests.helpers.tiny_settings import AUGMENTED


def test_a_warning_of_the_set_up_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before anything else is written, when a new run has no folder yet."""
    monkeypatch.setattr(setup, "compile_networks", lambda *args: args[-1]("stays eager"))
    run = RunFolder(str(tmp_path / "new"))
    TrainingRun(tiny({"train.compile": True}), run, Ranks())
    assert [row["event"] for row in run.rows("events.jsonl")] == ["note", "started"]


def test_activations_that_are_computed_again_give_the_same_bits_for_less_memory(tmp_path: Path) -> None:
    """Four steps, with the penalty and augmentation; what the generator's graph keeps besides its weights."""
    states = {}
    for again in (False, True):
        run = TrainingRun(
            tiny({**AUGMENTED, "model.block_out_channels": [8, 8], "model.down": "DA", "model.up": "AU",
                  "model.attention_head_dim": 4, "train.gradient_checkpointing": again}),
            RunFolder(str(tmp_path / str(again))), Ranks(),
        )  # fmt: skip
        x, kept = torch.randn(8, 1, 8, 8), dict[int, int]()

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = run.state.model(x, torch.ones(8))
        states[again] = sum(kept.values()) - sum(weight.nbytes for weight in run.state.model.parameters())
        del out
        go(run.cfg, tmp_path / f"{again}-run")
    assert states[True] < 0.5 * states[False]
    a, b = (tensors(newest(tmp_path / f"{again}-run")) for again in states)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_compiled_networks_train_like_eager_ones(tmp_path: Path) -> None:
    """With the compiler for real: penalty steps, monitored steps and plain ones; one to three minutes on two cores."""
    for name, compiled in (("eager", False), ("compiled", True)):
        cfg = tiny({**AUGMENTED, "train.compile": compiled})
        assert go(cfg, tmp_path / name)[-1]["outcome"] == "completed"
    notes = [row["text"] for row in rows(tmp_path / "compiled/events.jsonl") if row["event"] == "note"]
    assert notes == ["train.compile: every 4th discriminator step (the gradient penalty) runs eagerly"]
    for a, b in zip(*(rows(tmp_path / name / "metrics.jsonl") for name in ("eager", "compiled")), strict=True):
        assert a == pytest.approx(b, rel=0.02, abs=1e-3)


@pytest.mark.parametrize("only", ["Consistency", "DdpmDiscriminator"])
def test_a_network_that_fails_in_its_backward_stays_eager_and_a_note_says_so(
    only: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch size, precision and gradients of the probe are the step's own, and it leaves nothing behind."""
    batches: list[int] = []

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise RuntimeError("no such kernel\nand more")

    def compile_(net: Any) -> None:
        def compiled(x: Tensor, *rest: Any) -> Tensor:
            batches.append(len(x))
            assert torch.is_autocast_enabled("cpu") == (type(net).__name__ == "DdpmDiscriminator")
            out = net.forward(x, *rest)
            return Fails.apply(out) if type(net).__name__ == only else out  # type: ignore[no-untyped-call]

        net._compiled_call_impl = compiled

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    cfg, notes = tiny({"train.compile": True, "train.precision": "bf16"}), list[str]()
    state = setup.build_state(cfg, open_data("digits"), Ranks(), notes.append)
    assert batches == [8, 8, 8]
    assert notes[0] == f"train.compile: {only} stays eager (RuntimeError: no such kernel)"
    assert len(notes) == 2
    nets = {"Consistency": state.model, "DdpmDiscriminator": state.discriminator}
    assert {name for name, net in nets.items() if net._compiled_call_impl is None} == {only}
    assert all(p.grad is None for net in nets.values() for p in net.parameters())
