"""Searches on a real Ray, at the smallest size: inline trials, trials on Ray Train, prunes, failures, resumption."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from act_ray import settings
from act_ray.collapse.record import PruneRecord, replay
from act_ray.errors import UserError
from act_ray.outcomes import TrialOutcome
from act_ray.ray_cluster import gpu_per_worker
from act_ray.runs import checkpoint
from act_ray.train.loop import train_here
from act_ray.tune import ray_search, summary
from act_ray.tune.experiment import Experiment
from act_ray.tune.ray_placement import placement
from act_ray.tune.results import rank
from tests.helpers.fault_ledger import FULL, note
from tests.helpers.mistakes import refusal
from tests.helpers.ray_searches import DEADLINE_S, everything_is_free, experiment, until
from tests.helpers.small_disk import resize, small_disk
from tests.helpers.tiny_runs import assert_same_run

BLOWS_UP = {"optim.lr_g": 1e3}  # not finite within a few steps: the fastest real collapse


def test_inline_search_ends_with_a_table_and_a_picture(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = experiment(tmp_path, parameters={"loss.w": {"grid": [0.7]}, "optim.lr_g": {"grid": [1e-3, 1e3]}})
    assert ray_search.search(done) is False
    summary.conclude(done, "FD")
    good, bad = (done.trials[i] for i in range(2))
    assert (good.outcome, bad.outcome) == (TrialOutcome.COMPLETED, TrialOutcome.PRUNED)
    assert [report["step"] for report in good.reports] == [4, 8, 12]
    assert bad.prune is not None
    record = PruneRecord.from_json((done.local_trial(bad.plan) / "prune.json").read_text())
    assert record.evidence is not None
    assert replay(record).to_dict() == {**record.to_dict(), "evidence": None}
    assert bad.prune == record.summary()
    assert bad.prune["signature"] == "divergence"
    assert (bad.best_score, bad.best_step) == (None, None)
    assert "1e+09" not in (done.dir.path / "table.txt").read_text()
    printed = capsys.readouterr().out
    assert printed.count("\n") < 40  # one line per event
    assert f"{good.plan.name} completed" in printed
    assert "compute saved: " in printed
    assert rank(done)[0] is good
    again = shlex.split(next(line for line in printed.splitlines() if line.startswith("run it again: ")))
    overrides = [again[i + 1] for i, word in enumerate(again) if word == "--set"]
    assert settings.load(again[again.index("--preset") + 1], settings.parse_overrides(overrides)) == good.plan.config
    assert (done.dir.path / "best.png").stat().st_size > 500
    saved = json.loads((done.local_trial(good.plan) / "result.json").read_text())
    assert saved["score"] == good.reports[-1]["score"]


@pytest.mark.slow
def test_asha_stops_a_trial_and_its_state_is_saved(cluster: None, tmp_path: Path) -> None:
    done = experiment(
        tmp_path, {"train.total_steps": 40}, parameters={"optim.lr_g": {"grid": [2e-3, 1e-7, 1e-7, 1e-7]}},
        scheduler="asha", grace=0.1,
    )  # fmt: skip
    ray_search.search(done)
    stopped = [trial for trial in done.trials.values() if trial.outcome == TrialOutcome.SCHEDULER]
    assert stopped
    for trial in stopped:
        assert trial.reason is not None
        assert "misses ASHA's cut" in trial.reason
        assert trial.last is not None
        step, problems = checkpoint.newest_whole(done.local_trial(trial.plan) / "checkpoints")
        assert (step, problems) == (trial.last["step"], [])


MINUTES = pytest.mark.skipif(not FULL, reason="FAULTS=full: it starts a trial's three processes ten times, 6 minutes")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=[pytest.mark.slow, MINUTES])])
def test_a_trial_that_waited_and_went_on_equals_an_uninterrupted_run(
    workers: int, cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All wait at 40%, and the most promising go on; a larger budget lets all of them end."""
    raw = {"train.total_steps": 20, "eval.every": 4, "checkpoint.every": 10}
    done = experiment(
        tmp_path, raw, workers, scheduler="freeze-thaw", parameters={"train.seed": {"grid": [0, 1, 2, 3]}}
    )
    done.options["budget"] = "60%"
    assert ray_search.search(done) is False
    waiting = [trial for trial in done.trials.values() if trial.waiting is not None]
    assert waiting
    assert all(trial.outcome is None and trial.step < 20 for trial in waiting)
    assert any(re.search("waits at .0%, behind . that promise more", str(trial.waiting)) for trial in waiting)
    more = Experiment.resume(done.location, {"budget": "100%"})
    assert ray_search.search(more) is False
    assert [trial.outcome for trial in more.trials.values()] == [TrialOutcome.COMPLETED] * 4
    assert f"{waiting[0].plan.name} continues" in capsys.readouterr().out
    whole = tmp_path / "whole"
    told = json.loads(waiting[0].plan.config.model_dump_json())
    told["collapse"]["action"] = "record"  # the scheduler heeds a collapse itself
    train_here(settings.build(told), str(whole), gpu=False)
    assert_same_run(more.local_trial(waiting[0].plan), whole)


@pytest.mark.slow
def test_optuna_keeps_to_the_constraints(cluster: None, tmp_path: Path) -> None:
    done = experiment(
        tmp_path, {"train.total_steps": 4}, search="optuna", trials=4,
        parameters={"loss.w": {"uniform": [0, 1]}, "loss.w_mid": {"uniform": [0, 1]}},
        constraints=["loss.w_mid <= loss.w"],
    )  # fmt: skip
    ray_search.search(done)
    assert [trial.outcome for trial in done.trials.values()] == [TrialOutcome.COMPLETED] * 4
    assert all(t.plan.values["loss.w_mid"] <= t.plan.values["loss.w"] for t in done.trials.values())


@pytest.mark.slow
def test_a_trial_whose_input_is_wrong_fails_alone(cluster: None, tmp_path: Path) -> None:
    done = experiment(tmp_path, parameters={"data.path": {"grid": ["digits", "/nowhere"]}})
    ray_search.search(done)
    assert [done.trials[i].outcome for i in range(2)] == [TrialOutcome.COMPLETED, TrialOutcome.FAILED]
    assert "no such folder" in str(done.trials[1].reason)


@pytest.mark.slow
def test_a_full_disk_ends_no_trial_and_the_search_goes_on(cluster: None, tmp_path: Path) -> None:
    """Two checkpoints of 286 kB find room, and the trials want more."""
    with small_disk(tmp_path / "disk", "1200k") as disk:
        search = experiment(disk, {"train.total_steps": 16})
        said = refusal(ray_search.search, search)
        full = r"(checkpoint \d+|the run's files) cannot be written: No space left on device"  # whichever comes first
        assert re.match(rf"{disk}/.*: {full}[:;] ", said), said
        assert said.endswith(f"no trial has ended by it; {search.how_to_resume}")
        assert [trial.outcome for trial in Experiment.read(search.location).trials.values()] in ([None], [None, None])
        resize(disk, "100M")
        again = Experiment.resume(search.location, {})
        assert not ray_search.search(again)
        assert [trial.outcome for trial in again.trials.values()] == [TrialOutcome.COMPLETED] * 2
    assert until(everything_is_free)


@pytest.mark.slow
def test_a_search_whose_time_is_over_is_interrupted_and_goes_on_later(cluster: None, tmp_path: Path) -> None:
    search = experiment(tmp_path, {"train.total_steps": 40})
    for seconds in (0.0, 1.0):  # before, or while the first process starts
        assert ray_search.search(search, seconds)
        assert search.state == "interrupted"
        assert all(trial.outcome is None for trial in search.trials.values())
    assert not ray_search.search(search, DEADLINE_S)
    assert [trial.outcome for trial in search.trials.values()] == [TrialOutcome.COMPLETED] * 2
    assert until(everything_is_free)


def test_what_cannot_fit_is_refused_with_the_arithmetic(cluster: None) -> None:
    with pytest.raises(UserError, match="a trial needs 3 CPUs, the cluster has 2; at most 2"):
        placement(workers=3, concurrent=None)
    assert placement(workers=2, concurrent=None).concurrent == 1


def test_a_cluster_that_grows_is_filled_at_its_largest_size(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray up` leaves its settings in the head's home."""
    shutil.copy(Path(__file__).parents[2] / "cluster/aws-a100.yaml", tmp_path / "ray_bootstrap_config.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    place = placement(workers=4, concurrent=None)
    assert (place.concurrent, place.gpu, place.grows) == (8, True, True)
    assert placement(workers=0, concurrent=None).concurrent == 32
    assert placement(workers=0, concurrent=None, asked=False).concurrent == 4 * 96
    with pytest.raises(UserError, match=r"grows to 32 \(4 a100 of 96 CPUs and 8 GPUs\); at most 32 workers per trial"):
        placement(workers=33, concurrent=None)
    with pytest.raises(UserError, match="--workers 33: one GPU each, and the cluster grows to 32 GPUs"):
        gpu_per_worker(33, None)


@pytest.mark.slow
@pytest.mark.parametrize("trials", [3, *([10, 50] if FULL else [])])
def test_prunes_in_a_row_leave_nothing_behind(trials: int, cluster: None, tmp_path: Path) -> None:
    """Collapsing trials of a Ray Train worker each, two at a time on two CPUs: what two leak blocks the third."""
    done = experiment(tmp_path, BLOWS_UP, workers=1, parameters={"train.seed": {"grid": list(range(trials))}})
    ray_search.search(done)
    assert [trial.outcome for trial in done.trials.values()] == [TrialOutcome.PRUNED] * trials
    for trial in done.trials.values():
        events = (done.local_trial(trial.plan) / "events.jsonl").read_text()
        assert '"event": "pruned"' in events  # the workers ended by themselves
    assert until(everything_is_free)
    note(f"{trials} prunes in a row", "nothing left behind")
