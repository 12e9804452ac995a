"""Searches replayed over recorded runs."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from act_ray import settings
from act_ray.collapse.rules import CollapseConfig
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST
from act_ray.tune.freeze_thaw import FreezeThaw
from act_ray.tune.recorded import STEPS, Recorded, load_recorded, save_recorded
from act_ray.tune.schedulers import Plan, ToTheEnd
from act_ray.tune.simulation import Watched, replay, watch, wilson
from tests.helpers.command import Ended
from tests.helpers.tiny_runs import go, nan_at, tiny
from tests.helpers.traces import RUNS, feed


def recorded(name: str) -> Recorded:
    """One of the stored runs."""
    run = RUNS[name]
    dotted = {"train.total_steps": run["steps"], "loss.gp_weight": run["w_gp"], "loss.gp_interval": run["i_gp"]}
    steps = {field: np.full(run["steps"], np.nan) for field in STEPS}
    steps["loss_ct"][: len(run["loss_ct"])] = run["loss_ct"]
    for step, value in run["gp"]:
        steps["gp"][step] = value
    scores = [{"step": step, "score": fd, "diversity": div} for step, fd, div in run["evals"]]
    return Recorded(name, "digits", "fit", "", settings.load("digits", dotted), steps, scores)


def scored(*scores: float) -> Watched:
    """A run that is scored at tenths of ten steps, and never flagged."""
    cfg = settings.load("digits", {"train.total_steps": 10})
    rows = [{"step": i, "score": score, "diversity": 1.0} for i, score in enumerate(scores, 1)]
    return Watched(Recorded("x", "x", "", "", cfg, {}, rows), None, None)


def test_a_run_that_diverges_is_recorded_and_ends_there_as_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at(monkeypatch, 7)
    go(tiny({"collapse.action": "record"}), tmp_path / "s" / "trials" / "000-x")
    (tmp_path / "s" / "experiment.yaml").touch()
    (run,), (from_a_store,) = load_recorded(str(tmp_path / "s")), load_recorded((tmp_path / "s").as_uri())
    assert (from_a_store.name, from_a_store.scores) == (run.name, run.scores) == ("s/000-x", run.scores)
    assert (run.diverged, run.scores[-1]["score"], run.scores[-1]["step"]) == (7, WORST, 12)
    (tmp_path / "s" / "trials" / "000-x" / "rescues.json").write_text("[]")  # then it is not its settings' own run
    with pytest.raises(UserError, match="no trial of this search ran to its end"):
        load_recorded(str(tmp_path / "s"))
    save_recorded([run], tmp_path / "traces")
    (again,) = load_recorded(str(tmp_path / "traces"))
    seen = watch(again, CollapseConfig())
    assert (again.diverged, seen.flagged, seen.stopped) == (7, 7, 7)
    found = replay([seen, scored(*range(10, 0, -1))], ToTheEnd(Plan(2)), workers=1)
    assert (found.stopped, found.lost, found.best) == (1, 0, 1.0)


def test_without_a_scheduler_every_image_is_spent_and_the_best_is_found() -> None:
    trials = [scored(*np.linspace(9, last, 10)) for last in (3.0, 2.0, 5.0)]
    found = replay(trials, ToTheEnd(Plan(3)), workers=2)
    assert (found.best, found.compute, found.lost, found.stopped) == (1.0, pytest.approx(1.0), 0, 0)
    assert found.curve[-1] == (pytest.approx(1.0), 1.0)
    assert [best for _, best in found.curve] == sorted((best for _, best in found.curve), reverse=True)


def test_what_does_not_go_on_is_not_spent() -> None:
    trials = [scored(*np.linspace(20, last, 10)) for last in (16.0, 12.0, 8.0, 1.0)]
    found = replay(trials, FreezeThaw(Plan(4, every=0.1)), workers=1)
    assert found.best == 1.0
    assert found.compute == pytest.approx(0.6)  # all to .3, one to its end, and the second as far as the rest lasts


def test_a_run_that_is_stopped_and_would_have_won_is_lost() -> None:
    winner, other = scored(*np.linspace(20, 1, 10)), scored(*np.linspace(20, 2, 10))
    found = replay([replace(winner, flagged=3, stopped=5), other], ToTheEnd(Plan(2)), workers=1)
    assert (found.lost, found.stopped, found.best) == (1, 1, pytest.approx(2.0))
    assert found.compute == pytest.approx(0.75)


def test_a_scheduler_that_waits_throws_away_only_what_diverged() -> None:
    confirmed = replace(scored(*np.linspace(20, 1, 10)), flagged=3, stopped=5)
    other = scored(*np.linspace(20, 2, 10))
    found = replay([confirmed, other], FreezeThaw(Plan(2, budget=2.0)), workers=1)
    assert (found.lost, found.stopped, found.best, found.compute) == (0, 0, 1.0, 1.0)
    diverged = replace(confirmed, run=replace(confirmed.run, diverged=5))
    found = replay([diverged, other], FreezeThaw(Plan(2, budget=2.0)), workers=1)
    assert (found.stopped, found.compute) == (1, pytest.approx(0.75))


@pytest.mark.parametrize("name", ["c01", "c06", "c10", "h03", "m01"])
def test_a_replayed_detector_decides_as_the_runs_own(name: str) -> None:
    run = RUNS[name]
    own = feed(run, gp_interval=int(run["i_gp"]) if run["w_gp"] else None)
    found = watch(recorded(name), CollapseConfig())
    assert (found.flagged is None) == (own is None)
    assert (found.stopped is None) == (own is None or own.confirmed is None)
    # A block is closed, and its verdict known, one measurement after its end.
    assert found.stopped is None or own is None or abs(found.stopped - (own.confirmed or 0)) <= 17


def test_recorded_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    runs = [recorded(name) for name in ("c01", "h01")]
    save_recorded(runs, tmp_path)
    for before, after in zip(runs, load_recorded(str(tmp_path)), strict=True):
        assert (after.name, after.group, after.split, after.cfg) == (before.name, "digits", "fit", before.cfg)
        assert [{**row} for row in before.scores] == [{k: row[k] for k in before.scores[0]} for row in after.scores]
        for field in STEPS:
            np.testing.assert_allclose(after.steps[field], before.steps[field], rtol=3e-4)  # 12 bits
        assert watch(after, CollapseConfig()).flagged == watch(before, CollapseConfig()).flagged


def test_a_search_is_replayed_from_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_recorded([recorded(name) for name in sorted(RUNS)[:12]], tmp_path / "traces")
    common = ["--space", "digits", "--resamples", 20, "--storage", tmp_path]
    out = Ended(capfd, "tune", "--simulate", tmp_path / "traces", *common, "--name", "replay").succeeded()
    assert "P(best within 2%)" in out
    with (tmp_path / "replay" / "simulation.csv").open(newline="") as file:
        rows = {row["scheduler"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["freeze-thaw", "asha", "median", "none"]
    assert (rows["none"]["within_2_percent"], float(rows["none"]["compute"])) == ("1.0", pytest.approx(1))
    assert all(float(rows[name]["compute"]) < 0.8 for name in ("freeze-thaw", "asha", "median"))
    assert (tmp_path / "replay" / "simulation.png").stat().st_size > 5000
    said = Ended(capfd, "tune", "--simulate", tmp_path / "traces", "--split", "held-out", *common).mistake()
    assert said.endswith("has 0 runs of that split; needs 4 of a group")
    for more, what in (
        (["--name", "replay"], "--name replay: "),
        (["--dry-run"], "--simulate TRACES: not with --resume, --from or --dry-run"),
        (["--budget", "2 hours"], "--budget 2 hours: a replay takes no time"),
    ):
        assert Ended(capfd, "tune", "--simulate", tmp_path / "traces", *common, *more).mistake().startswith(what)
    assert Ended(capfd, "tune", "--split", "fit").mistake() == "--resamples, --split: only with --simulate TRACES"
    said = Ended(capfd, "tune", "--simulate", tmp_path, *common).mistake()
    assert said.endswith(f"{tmp_path}: no runs.parquet there; give a folder of recorded runs, or of a search")


def test_a_searchs_trials_are_recorded_runs(tmp_path: Path) -> None:
    """Only those that ran to their end."""
    (tmp_path / "experiment.yaml").touch()
    go(tiny({"data.held_out": 0.1}), tmp_path / "trials" / "000-x")
    (tmp_path / "trials" / "001-y").mkdir()
    (run,) = load_recorded(str(tmp_path))
    assert (run.total, len(run.scores), run.group) == (12, 3, tmp_path.name)
    assert np.isfinite(run.steps["loss_ct"]).all()
    assert np.isfinite(run.steps["gp"]).sum() == 6  # every third step, and every fourth
    assert {"d_train", "d_held", "loss_ct_high"} <= {
        name for name, value in run.scores[-1].items() if value is not None
    }


def test_wilsons_interval() -> None:
    """Newcombe (1998), Table I: 81 of 263, and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
