"""The loop: resuming bit for bit, stopping, divergence, findings, and what it reads from the device."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from act_ray import settings
from act_ray.collapse.record import PruneRecord, replay
from act_ray.core.noise import Noise
from act_ray.data.sampler import batch_indices
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.metrics import classifier
from act_ray.metrics.scores import WORST
from act_ray.pictures import from_uint8
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.runs.checkpoint import saved_steps
from act_ray.runs.folder import RunFolder
from act_ray.train import batches, loop, scoring, setup
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun
from tests.helpers.tiny_runs import KEYS, assert_same_run, go, killed_at, nan_at, newest, rows, tensors, tiny
from tests.helpers.tiny_settings import AUGMENTED


def on_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[Any], object], after: bool = False) -> None:
    """Have `act(state)` called before or after a step is trained."""
    original = loop.train_step

    def wrapped(state: Any, *rest: Any) -> Any:
        here = state.step == step
        if here and not after:
            act(state)
        metrics = original(state, *rest)
        if here and after:
            act(state)
        return metrics

    monkeypatch.setattr(loop, "train_step", wrapped)


# ---------------------------------------------------------------------------------------------- a whole run


def test_a_run_writes_every_row_once(whole: Path) -> None:
    metrics, scored = rows(whole / "metrics.jsonl"), rows(whole / "scores.jsonl")
    assert [row["step"] for row in metrics] == list(range(12))
    assert [row["step"] for row in metrics if "loss_gp" in row] == [0, 4, 8]
    assert [row["step"] for row in metrics if "gp" in row] == [0, 3, 4, 6, 8, 9]
    assert [row["step"] for row in scored] == [5, 10, 12]
    assert {row["metric"] for row in scored} == {"FD (classifier features, 16 samples)"}
    assert sorted(p.name for p in (whole / "samples").iterdir()) == [f"step-000000{n}.png" for n in ("05", "10", "12")]
    better = [row["step"] for i, row in enumerate(scored) if row["score"] <= min(r["score"] for r in scored[: i + 1])]
    kept = {*sorted({4, 8, 12, *better})[-2:], better[-1]}
    assert saved_steps(whole / "checkpoints") == sorted(kept)  # the last two and the best
    assert [row["event"] for row in rows(whole / "events.jsonl")] == ["started", "completed"]
    result = json.loads((whole / "result.json").read_text())
    assert set(result) == KEYS
    assert (result["outcome"], result["step"], result["images"]) == ("completed", 12, 96)
    assert result["score"] == scored[-1]["score"]
    assert result["best_score"] == min(row["score"] for row in scored)


def test_p_aug_follows_the_penalty_in_every_row(whole_augmented: Path) -> None:
    p = [row["p_aug"] for row in rows(whole_augmented / "metrics.jsonl")]
    assert len(p) == 12
    assert p[0] == p[3] == pytest.approx(0.4)
    assert len({p[0], p[4], p[8]}) > 1


# ---------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(("steps", "augmented"), [([2], False), ([7], False), ([7], True), ([6, 9, 11], True)])
def test_killed_and_resumed_equals_uninterrupted(
    steps: list[int], augmented: bool, whole: Path, whole_augmented: Path, tmp_path: Path
) -> None:
    """SIGKILL before the first checkpoint, between two with rows flushed in between, and again and again."""
    cfg = tiny(AUGMENTED if augmented else None)
    for step in steps:
        killed_at(cfg, tmp_path, step)
    go(cfg, tmp_path)
    assert_same_run(tmp_path, whole_augmented if augmented else whole)


def test_a_generator_closed_between_checkpoints_resumes(whole: Path, tmp_path: Path) -> None:
    reports = train(tiny(), RunFolder(str(tmp_path)), Ranks())
    assert next(reports)["step"] == 5
    assert next(reports)["step"] == 10
    reports.close()  # type: ignore[attr-defined]
    torn = tmp_path / "metrics.jsonl"
    torn.write_text(torn.read_text() + '{"step": 10, "loss_')
    go(tiny(), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(whole: Path, tmp_path: Path) -> None:
    killed_at(tiny(), tmp_path, 11)
    folder = newest(tmp_path)
    (folder / "ema.safetensors").write_bytes(b"x" * 100)
    go(tiny(), tmp_path)
    (note,) = [row["text"] for row in rows(tmp_path / "events.jsonl") if row["event"] == "note"]
    assert str(folder / "ema.safetensors") in note
    assert_same_run(tmp_path, whole)


def test_checkpoints_after_a_fallback_outlive_the_damaged_ones(whole: Path, tmp_path: Path) -> None:
    """Damaged ones of later steps must not count among the newest that are kept."""
    cfg = tiny({"checkpoint.every": 2, "checkpoint.keep": 3, "eval.every": 12})
    killed_at(cfg, tmp_path, 7)
    assert saved_steps(tmp_path / "checkpoints") == [2, 4, 6]
    for step in (4, 6):
        (tmp_path / f"checkpoints/step-0000000{step}/model.safetensors").unlink()
    for crash in (5, 7, 9):
        killed_at(cfg, tmp_path, crash)
        started = [row for row in rows(tmp_path / "events.jsonl") if row["event"] == "resumed"][-1]
        assert started["step"] == {5: 2, 7: 4, 9: 6}[crash]
    assert newest(tmp_path).name == "step-00000008"


def test_resuming_a_finished_run_only_says_so(whole: Path, tmp_path: Path) -> None:
    first = go(tiny(), tmp_path)[-1]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    assert go(tiny(), tmp_path) == [first]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")} == before
    assert_same_run(tmp_path, whole)


def test_other_data_under_a_resumed_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 2)
    for name, seed in (("a", 0), ("b", 1)):
        for i, image in enumerate(np.random.default_rng(seed).integers(0, 256, (16, 8, 8), dtype=np.uint8)):
            file = tmp_path / name / f"class{i % 2}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
        prepare(str(tmp_path / name), tmp_path / f"data-{name}", PrepareOptions())
    (tmp_path / "data-a").rename(tmp_path / "data")
    cfg = tiny({"data.path": str(tmp_path / "data"), "train.total_steps": 4, "eval.every": 4})
    go(cfg, tmp_path / "run")
    (tmp_path / "data").rename(tmp_path / "old")
    (tmp_path / "data-b").rename(tmp_path / "data")
    with pytest.raises(UserError, match=r"was trained on other images than .*data holds now"):
        go(cfg, tmp_path / "run")


# ---------------------------------------------------------------------------------------------- stopping


def test_a_stop_saves_and_resuming_finishes(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(str(tmp_path))
    with monkeypatch.context() as patch:
        on_step(patch, 6, lambda _: run.request_stop())
        (report, last) = go(tiny(), tmp_path)
    assert (report["step"], last["step"], last["outcome"]) == (5, 8, "stopped")
    assert newest(tmp_path).name == "step-00000008"
    assert not (tmp_path / "STOP").exists()
    assert json.loads((tmp_path / "result.json").read_text()) == last
    assert go(tiny(), tmp_path)[-1]["outcome"] == "completed"
    assert_same_run(tmp_path, whole)


def test_a_stop_off_every_boundary(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(str(tmp_path))
    with monkeypatch.context() as patch:
        on_step(patch, 8, lambda _: run.request_stop())
        assert go(tiny(), tmp_path)[-1]["step"] == 9
    assert newest(tmp_path).name == "step-00000009"
    go(tiny(), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_stop_that_comes_before_the_first_step_is_obeyed(tmp_path: Path) -> None:
    RunFolder(str(tmp_path)).request_stop()
    (last,) = go(tiny(), tmp_path)
    assert (last["step"], last["outcome"], last["score"]) == (3, "stopped", WORST)


# ---------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("step", [0, 6, 7, 9])
def test_a_loss_that_is_not_finite_ends_the_run(
    step: int, watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next flush is a checkpoint (7) or a score (9), and with the detector switched off."""
    nan_at(monkeypatch, *range(step, 99))
    last = go(tiny({"collapse.enabled": watched}), tmp_path)[-1]
    assert (last["outcome"], last["prune"]["signature"], last["score"]) == ("pruned", "divergence", WORST)
    assert last["prune"]["message"] == f"L_CT is nan at step {step}: the run has diverged"
    assert last["best_score"] == (min(r["score"] for r in rows(tmp_path / "scores.jsonl")) if step > 5 else WORST)
    saved = saved_steps(tmp_path / "checkpoints")
    assert saved == [s for s in (4, 5, 8) if s <= step][-2:]
    for folder in (tmp_path / "checkpoints").iterdir():
        assert all(value.isfinite().all() for value in tensors(folder).values())
    assert [row["step"] for row in rows(tmp_path / "scores.jsonl")] == [s for s in (5,) if s <= step]
    record = PruneRecord.from_dict(json.loads((tmp_path / "prune.json").read_text()))
    assert replay(record).to_json() == replace(record, evidence=None).to_json()  # NaN is not NaN, its text is
    evidence = record.evidence
    assert evidence is not None
    assert (record.step, evidence["seed"]) == (step, 0)
    assert evidence["images"] == batch_indices(1797, 16, 0, step).tolist()  # the generator's eight, and D's own
    assert evidence["checkpoint_before"] == max(saved, default=None)
    assert evidence["last_rows"] == rows(tmp_path / "metrics.jsonl")[-50:]
    assert next(row["step"] for row in evidence["last_rows"] if row["loss_ct"] == "NaN") == step
    assert json.loads((tmp_path / "result.json").read_text()) == last


def test_weights_that_overflow_under_a_finite_loss_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step before a checkpoint breaks the weights: no loss has shown it yet."""

    def overflow(state: Any) -> None:
        with torch.no_grad():
            next(state.discriminator.parameters()).view(-1)[0] = float("inf")

    on_step(monkeypatch, 7, overflow, after=True)
    last = go(tiny(), tmp_path)[-1]
    assert (last["outcome"], last["prune"]["signature"], last["score"]) == ("pruned", "divergence", WORST)
    assert last["prune"]["message"] == "a weight is nan at step 7: the run has diverged"
    assert saved_steps(tmp_path / "checkpoints") == [4, 5]


# ---------------------------------------------------------------------------------------------- findings


def samples_become_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([1.0, 0.2, 0.1, 0.1, 0.1])
    monkeypatch.setattr(scoring, "diversity", lambda *_: next(values))


SOON = {"eval.every": 2, "collapse.diversity_patience": 2}


def test_a_pruned_run_keeps_a_record_that_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples_become_alike(monkeypatch)
    last = go(tiny(SOON), tmp_path)[-1]
    assert (last["outcome"], last["prune"]["signature"], last["step"]) == ("pruned", "mode-collapse", 10)
    assert 0 < last["score"] < WORST
    record = PruneRecord.from_dict(json.loads((tmp_path / "prune.json").read_text()))
    assert replay(record) == record
    assert (record.signature, record.message) == ("mode-collapse", last["prune"]["message"])
    assert record.evidence is None
    assert (record.step, record.confirmed, newest(tmp_path).name) == (6, 10, "step-00000010")
    assert go(tiny(SOON), tmp_path) == [last]  # resumed: it is still over, for the same reason


def test_a_finding_that_is_only_recorded_lets_the_run_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny({**SOON, "collapse.action": "record", "train.total_steps": 8})
    samples_become_alike(monkeypatch)
    last = go(cfg, tmp_path)[-1]
    assert (last["outcome"], last["prune"]["signature"], last["step"]) == ("completed", "mode-collapse", 8)
    record = PruneRecord.from_dict(json.loads((tmp_path / "prune.json").read_text()))
    assert (record.signature, record.step) == ("mode-collapse", 6)
    assert replay(record) == record


def test_divergence_after_a_recorded_finding_is_what_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples_become_alike(monkeypatch)
    nan_at(monkeypatch, *range(7, 99))
    last = go(tiny({**SOON, "collapse.action": "record"}), tmp_path)[-1]
    assert (last["outcome"], last["prune"]["signature"], last["score"]) == ("pruned", "divergence", WORST)
    record = json.loads((tmp_path / "prune.json").read_text())
    assert (record["signature"], record["step"], record["evidence"]["seed"]) == ("divergence", 7, 0)
    found = [row for row in rows(tmp_path / "events.jsonl") if row["event"] in ("signature", "confirmed")]
    assert [(row["event"], row["signature"]) for row in found][:: len(found) - 1] == [
        ("signature", "mode-collapse"),
        ("confirmed", "divergence"),
    ]


def test_a_mistake_leaves_no_folder_behind(tmp_path: Path) -> None:
    for wrong in ({"model.num_classes": 9}, {"data.path": str(tmp_path / "none")}):
        with pytest.raises(UserError):
            go(tiny(wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used as a run's folder"):
        go(tiny(), tmp_path / "file" / "run")


# ---------------------------------------------------------------------------------------------- a step's images


def fetched(step: int, **dotted: Any) -> tuple[Tensor, Tensor]:
    """The generator's images of a step, and D's own."""
    cfg = settings.load("digits", {name.replace("__", "."): value for name, value in dotted.items()})
    (x, _), own = batches.fetch(open_data("digits"), cfg, step, Ranks())
    return x, torch.empty(0) if own is None else own[0]


def test_d_has_images_of_its_own() -> None:
    """The stream of batch_indices, B for the generator and then D's; an epoch holds every image once."""
    data = open_data("digits").images
    parts = [part for step in range(3) for part in fetched(step, train__global_batch=64)]
    order = np.concatenate([batch_indices(len(data), 128, 0, step) for step in range(3)])
    assert torch.equal(torch.cat(parts), from_uint8(torch.from_numpy(data[order])))
    assert [len(part) for part in parts] == [64] * 6
    for shared in ({"train__discriminator_images": "shared"}, {"loss__w": 0.0, "loss__w_mid": 0.0}):
        assert len(fetched(0, **shared)[1]) == 0


def test_flips_are_half_of_the_images_drawn_from_seed_and_step() -> None:
    plain, flipped = (torch.cat(fetched(7, data__flip=flip, train__global_batch=200)) for flip in (False, True))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(plain, flipped, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    assert all(a or b for a, b in zip(mirrored, same, strict=True))
    assert 160 < sum(mirrored) < 240  # of 400; two in three million draws are outside
    assert mirrored[:200] != mirrored[200:]
    assert torch.equal(torch.cat(fetched(7, data__flip=True, train__global_batch=200)), flipped)
    other = torch.cat(fetched(8, data__flip=True, train__global_batch=200))
    again = torch.cat(fetched(8, data__flip=False, train__global_batch=200))
    assert [torch.equal(a, b.flip(2)) for a, b in zip(again, other, strict=True)] != mirrored


def test_a_subset_is_the_same_in_every_run_and_each_image_comes_once_an_epoch() -> None:
    found = []
    for seed in (0, 1):
        seen = torch.cat([fetched(step, data__subset=50, train__global_batch=10, train__discriminator_images="shared",
                                  train__seed=seed)[0] for step in range(5)])  # fmt: skip
        found.append({image.numpy().tobytes() for image in seen})
    assert found[0] == found[1]
    assert len(found[0]) == 50
    smaller = {image.numpy().tobytes() for image in fetched(0, data__subset=20, train__global_batch=20)[0]}
    assert smaller < found[0]


# ---------------------------------------------------------------------------------------------- on the device


def test_a_step_copies_nothing_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor made from a list is copied to a GPU from pageable memory, which waits for all that is queued."""
    for channels_last, step in ((False, 0), (True, 3), (False, 5)):
        cfg = tiny({**AUGMENTED, "model.num_classes": 10, "train.channels_last": channels_last, "data.flip": True})
        state = setup.build_state(cfg, open_data("digits"), Ranks(), print)
        state.step = step
        (x, labels), own = batches.fetch(open_data("digits"), cfg, step, Ranks())
        noise = Noise(0, step, x.device)
        with monkeypatch.context() as patch:
            for optimizer in (state.optimizer_g, state.optimizer_d):  # their step counts live on the host
                patch.setattr(optimizer, "step", lambda: None)
            for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch, "from_numpy"), (Tensor, "new_tensor")):
                patch.setattr(owner, name, lambda *_, **__: pytest.fail("copies from the host"))
            loop.train_step(state, x, labels, noise, cfg.step, own=own)


def test_metrics_reach_the_host_once_per_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two flushes nothing of ours reads a tensor: on a GPU each read would wait for all that is queued."""
    reads: list[str] = []
    for name in ("item", "tolist", "numpy", "cpu", "__float__", "__bool__", "__int__", "__index__"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
            caller = sys._getframe(1).f_code
            if "/act_ray/" in caller.co_filename:
                reads.append(f"{_name} in {caller.co_name}")
            return _original(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    cfg = tiny({**AUGMENTED, "train.log_every": 4, "eval.every": 100, "checkpoint.every": 100, "train.total_steps": 13})
    job = TrainingRun(cfg, RunFolder(str(tmp_path)), Ranks())
    monkeypatch.setattr(loop, "TrainingRun", lambda *_: job)
    reads.clear()
    per_step: list[list[str]] = []
    original_step = loop.train_step

    def stepping(*args: Any) -> Any:
        per_step.append([*reads])
        reads.clear()
        return original_step(*args)

    monkeypatch.setattr(loop, "train_step", stepping)
    list(train(cfg, RunFolder(str(tmp_path)), Ranks()))
    boundary = per_step[0]  # step 0 is a multiple of everything: its look at the weights is not on the way
    assert boundary == ["__bool__ in check_weights"]
    assert per_step[1:] == [["tolist in flush"] if step % 4 == 0 else [] for step in range(1, 13)]
