"""A run whose collapse is confirmed goes back and changes one thing; and one whose w_gp follows ||grad D||^2."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from act_ray import settings
from act_ray.collapse.detector import Detector
from act_ray.collapse.record import PruneRecord
from act_ray.config import Config
from act_ray.core.options import Steer
from act_ray.core.steer import Steering
from act_ray.errors import UserError
from act_ray.outcomes import Report
from act_ray.runs.checkpoint import saved_steps
from act_ray.runs.folder import RunFolder, grid_name
from act_ray.train.detect import make_detector
from act_ray.train.fork import fork, forked_config
from act_ray.train.rescue import changed, next_change, read_rescues
from act_ray.train.run import TrainingRun
from tests.helpers.tiny_runs import assert_same_run, go, in_child, killed_at, nan_at, newest, rows, tiny

RESCUE = {"collapse.action": "rescue", "checkpoint.good": 9, "checkpoint.keep": 9}


@pytest.mark.parametrize("remote", [False, True])
def test_a_rescued_run_goes_on_from_its_last_good_state(
    remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at(monkeypatch, 9)
    last = go(tiny(RESCUE), tmp_path.as_uri() if remote else tmp_path)[-1]
    assert saved_steps(tmp_path / "checkpoints")[:3] == [4, 5, 8]
    assert (last["outcome"], last["rescues"], last["prune"]) == ("completed", 1, None)
    (rescue,) = read_rescues(RunFolder(str(tmp_path)))
    assert (rescue.signature, rescue.confirmed, rescue.back_to) == ("divergence", 9, 8)
    assert rescue.changes == {"loss.gp_weight": pytest.approx(3 * tiny().loss.gp_weight)}
    assert 0 < rescue.seconds < last["seconds"]
    metrics = rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(12))
    ratios = [row["loss_gp"] / row["gp"] for row in metrics if "loss_gp" in row]
    assert ratios == pytest.approx([0.3, 0.3, 0.9])  # steps 0, 4, 8
    given_up = rows(tmp_path / "rescues" / "1" / "metrics.jsonl")
    assert [row["step"] for row in given_up][:2] == [8, 9]
    assert given_up[1]["loss_ct"] == "NaN"
    assert PruneRecord.from_json((tmp_path / "rescues" / "1" / "prune.json").read_text()).signature == "divergence"
    assert not (tmp_path / "prune.json").exists()
    assert "gp_weight: 0.3" in (tmp_path / "config.yaml").read_text()  # what was asked for


def scored_as(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], float], after: Callable[[int], float]) -> None:
    """The scores before and after the first rescue, by step."""
    original = TrainingRun.evaluate

    def evaluate(self: TrainingRun) -> Report:
        scorer, score = self.scorer, after if self.rescues else before

        def fake(networks: Any) -> Any:
            result, images = scorer(networks)
            return {**result, "score": score(self.state.step)}, images

        self.scorer = fake  # type: ignore[assignment]
        try:
            return original(self)
        finally:
            self.scorer = scorer

    monkeypatch.setattr(TrainingRun, "evaluate", evaluate)


WORSE = {**RESCUE, "eval.every": 2, "checkpoint.every": 1}


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("dies", [None, "rmtree", "push", "json"])
def test_a_run_that_got_worse_goes_back_to_its_best_whatever_kills_it_on_the_way(
    dies: str | None, remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 at step 2, then 20 and 30: confirmed at step 6, when there are checkpoints of every step."""
    scored_as(monkeypatch, lambda step: 5.0 * step, lambda step: 10.0 - step / 2)
    place = (tmp_path / "run").as_uri() if remote else str(tmp_path / "run")
    if dies is not None:

        def child() -> None:
            owner, name = (shutil, "rmtree") if dies == "rmtree" else (RunFolder, dies)
            original = getattr(owner, name)

            def dying(*args: Any, **options: Any) -> Any:
                if sys._getframe(1).f_code.co_name == "go_back":
                    if dies == "push":  # what it uploads first is there
                        original(*args, **options)
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **options)

            setattr(owner, name, dying)
            go(tiny(WORSE), place)

        assert in_child(child) == signal.SIGKILL
    last = go(tiny(WORSE), place)[-1]
    assert (last["outcome"], last["rescues"], last["given_up"], last["best_score"]) == ("completed", 1, 4, 4.0)
    run = tmp_path / "run"
    (rescue,) = json.loads((run / "rescues.json").read_text())
    assert (rescue["signature"], rescue["confirmed"], rescue["back_to"]) == ("worse", 6, 2)
    assert [row["score"] for row in rows(run / "scores.jsonl")] == [10.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert [row["score"] for row in rows(run / "rescues" / "1" / "scores.jsonl")] == [20.0, 30.0]
    assert sorted(path.name for path in (run / "rescues" / "1").glob("*.png")) == [grid_name(4), grid_name(6)]
    assert len(list((run / "samples").iterdir())) == 6
    drawn, given_up = ((run / folder / grid_name(6)).stat().st_mtime_ns for folder in ("samples", "rescues/1"))
    assert drawn > given_up
    ratios = [row["loss_gp"] / row["gp"] for row in rows(run / "metrics.jsonl") if "loss_gp" in row]
    assert ratios == pytest.approx([0.3, 0.9, 0.9])  # steps 0, 4, 8


def test_a_value_that_is_not_finite_after_a_flag_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored_as(monkeypatch, lambda step: 5.0 * step, lambda step: 10.0 - step / 2)
    nan_at(monkeypatch, 7)
    cfg = tiny({**WORSE, "collapse.patience": 0.9})
    assert go(cfg, tmp_path)[-1]["outcome"] == "completed"
    (rescue,) = read_rescues(RunFolder(str(tmp_path)))
    assert (rescue.signature, rescue.confirmed, rescue.back_to) == ("divergence", 7, 2)


def test_a_lower_tau_is_the_one_that_p_aug_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that of the checkpoint; the average begins at it, as at the beginning of a run."""
    scored_as(monkeypatch, lambda step: 5.0 * step, lambda step: 10.0 - step / 2)
    cfg = tiny({**WORSE, "collapse.rescue_order": ["p_aug"], "loss.gp_interval": 2})
    assert go(cfg, tmp_path)[-1]["outcome"] == "completed"
    (rescue,) = read_rescues(RunFolder(str(tmp_path)))
    controller = load_file(newest(tmp_path) / "controller.safetensors")
    assert controller["tau"].item() == pytest.approx(rescue.changes["augment.tau"])
    moved = [row["p_aug"] for row in rows(tmp_path / "metrics.jsonl") if "p_aug" in row]
    assert moved[0] == pytest.approx(cfg.augment.p_step)  # at step 2: the average is not below tau


def test_a_rescued_run_that_is_killed_goes_on_as_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        nan_at(patch, 6)
        go(tiny(RESCUE), tmp_path / "whole")
    with monkeypatch.context() as patch:
        nan_at(patch, 6)
        killed_at(tiny(RESCUE), tmp_path / "killed", 10)
    assert go(tiny(RESCUE), tmp_path / "killed")[-1]["rescues"] == 1
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    cfg = forked_config(str(tmp_path / "whole"), 8, {})
    assert cfg.loss.gp_weight == pytest.approx(0.9)
    assert forked_config(str(tmp_path / "whole"), 4, {}).loss.gp_weight == 0.3  # from before its rescue, to 5
    fork(str(tmp_path / "whole"), 8, {}, str(tmp_path / "fork"))
    go(cfg, tmp_path / "fork")
    assert rows(tmp_path / "fork" / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")


def test_one_that_collapses_before_any_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_at(monkeypatch, 2)
    assert go(tiny(RESCUE), tmp_path)[-1]["outcome"] == "completed"
    assert [rescue.back_to for rescue in read_rescues(RunFolder(str(tmp_path)))] == [0]
    assert rows(tmp_path / "metrics.jsonl")[0]["loss_gp"] / rows(tmp_path / "metrics.jsonl")[0]["gp"] == pytest.approx(
        0.9
    )


def test_the_tries_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_at(monkeypatch, *range(6, 99))
    last = go(tiny(RESCUE), tmp_path)[-1]
    assert (last["outcome"], last["rescues"], last["prune"]["signature"]) == ("pruned", 2, "divergence")
    rescues = read_rescues(RunFolder(str(tmp_path)))
    assert [[*rescue.changes] for rescue in rescues] == [["loss.gp_weight"], ["optim.lr_d"]]
    cfg = changed(tiny(RESCUE), rescues)
    assert cfg.loss.gp_weight == pytest.approx(0.9)  # the first change stays
    assert cfg.optim.lr_d == tiny().optim.lr_g / 2
    assert saved_steps(tmp_path / "checkpoints") == [4, 5]


def found(cfg: Config, gp: float = 2.0) -> Detector:
    detector = make_detector(settings.with_changes(cfg, {"train.total_steps": 400}, ""))
    for step in range(300):
        detector.observe(step, 1.0, gp)
    return detector


@pytest.mark.parametrize(
    ("more", "tries", "expected"),
    [
        ({"loss.w": 0.7}, 2, {"loss.w": 0.56, "loss.w_mid": 0.56}),
        ({"loss.w": 0.7, "loss.w_mid": 0.3}, 2, {"loss.w": 0.56, "loss.w_mid": 0.3}),
        ({}, 3, {"augment.enabled": True, "augment.tau": 0.7 * 0.3 * 2.0}),
        ({"augment.enabled": True, "augment.tau": 0.5}, 3, {"augment.tau": 0.35}),
        ({"discriminator.conditional": True}, 3, {"loss.gp_weight": 0.9}),  # such a D cannot be shown augmented images
        ({"loss.gp_weight": 0.0}, 0, {"loss.gp_weight": 0.5 / 2.0}),
        ({"loss.gp_weight": 0.001}, 0, {"loss.gp_weight": 0.5 / 2.0}),
        ({"optim.lr_d": 0.4}, 1, {"optim.lr_d": 0.2}),
        ({"loss.w": 0.0, "loss.w_mid": 0.0}, 0, None),
        ({"collapse.rescue_order": ["w"], "loss.w": 0.7}, 5, {"loss.w": 0.56, "loss.w_mid": 0.56}),
    ],
)
def test_what_is_changed(more: dict[str, object], tries: int, expected: dict[str, object] | None) -> None:
    cfg = tiny({**RESCUE, **more})
    change = next_change(cfg, found(cfg), tries)
    assert change == (None if expected is None else pytest.approx(expected))


# ---------------------------------------------------------------------------------------------- steering


def test_w_gp_follows_the_corridor() -> None:
    cfg = Steer(low=0.5, high=2.0, factor=2.0, most=10.0, decay=0.0)
    steering = Steering.start(cfg, 1.0, torch.device("cpu"))
    seen = []
    for gp in (1.0, 3.0, 3.0, 3.0, 9.0, 9.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.0):
        steering.update(torch.tensor(gp), 1.0, cfg)
        seen.append(steering.w_gp.item())
    assert seen == [1, 2, 4, 8, 10, 10, 10, 5, 2.5, 1.25, 1, 1]
    slow = Steering.start(Steer(decay=0.9), 1.0, torch.device("cpu"))
    slow.update(torch.tensor(9.0), 1.0, Steer(decay=0.9))
    assert slow.w_gp == 1.0  # one high value moves nothing


def test_a_steered_run_logs_its_moves_and_resumes(tmp_path: Path) -> None:
    cfg = tiny({"collapse.action": "steer", "steer.low": 1e-9, "steer.high": 1e-8, "loss.gp_interval": 2})
    go(cfg, tmp_path / "whole")
    killed_at(cfg, tmp_path / "killed", 10)
    go(cfg, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    metrics = rows(tmp_path / "whole" / "metrics.jsonl")
    moves = [row["w_gp"] for row in metrics]
    assert moves[0] == pytest.approx(0.3 * 1.1)
    assert moves[-1] == pytest.approx(0.3 * 1.1**6)
    assert [row["loss_gp"] / row["gp"] for row in metrics[2::2]] == pytest.approx(moves[1:-1:2])


def test_what_steering_needs() -> None:
    with pytest.raises(UserError, match=r"collapse.action = steer: needs loss.gp_weight > 0"):
        tiny({"collapse.action": "steer", "loss.gp_weight": 0.0})
    with pytest.raises(UserError, match=r"steer.low = 5.0: must be below steer.high = 3.0"):
        tiny({"steer.low": 5.0})
