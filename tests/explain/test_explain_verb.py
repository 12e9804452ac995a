"""Why a run was flagged or stopped, told from its folder."""

import json
from pathlib import Path

import pytest

from act_ray.collapse.margins import margins
from act_ray.collapse.record import judge_all
from act_ray.collapse.rules import CollapseConfig
from act_ray.collapse.trace import Trace
from act_ray.tune.experiment import Experiment
from act_ray.tune.space_files import parse_space
from tests.helpers.command import Ended
from tests.helpers.drifted_run import write_drifted_run
from tests.helpers.searches import OPTIONS, scored
from tests.helpers.tiny_runs import go, tiny
from tests.helpers.tiny_settings import TINY
from tests.helpers.traces import RUNS, feed


@pytest.mark.parametrize("name", ["c01", "c03", "c10", "m02"])
def test_a_threshold_past_its_margin_changes_the_decision_and_one_before_it_does_not(name: str) -> None:
    record = feed(RUNS[name])
    assert record is not None
    found = list(margins(record))
    assert found
    for margin in found:
        for nudge, decided in ((1.01, False), (0.97, True)):
            toward = nudge if margin.needed > margin.value else 1 / nudge
            changed = CollapseConfig.model_validate({**record.config, margin.name: margin.needed * toward})
            again = judge_all(Trace.from_dict(record.trace), changed)
            assert (again is not None and again.signature == record.signature) is decided, margin


def test_a_flagged_run_is_told_with_its_values_its_margins_and_a_plot(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_drifted_run(tmp_path / "run")
    lines = Ended(capfd, "explain", tmp_path / "run").succeeded().splitlines()
    record = json.loads((tmp_path / "run" / "prune.json").read_text())
    assert lines[0] == f"drift at step {record['step']:,} of 1,200 ({record['step'] / 1200:.0%}): {record['message']}"
    assert any(line.startswith("confirmed at step ") and "steps have passed since" in line for line in lines)
    assert any(line.startswith("  collapse.drift_ratio over ") and "(it is 7)" in line for line in lines)
    assert "replayed from prune.json to the same decision" in lines
    assert (tmp_path / "run" / "explain.png").stat().st_size > 10_000


def test_a_run_without_a_record_is_told_from_its_rows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_drifted_run(run)
    first = Ended(capfd, "explain", run).succeeded().splitlines()[0]
    (run / "prune.json").unlink()
    lines = Ended(capfd, "explain", run).succeeded().splitlines()
    assert (lines[0], lines[-2]) == (first, "found in its rows; there is no prune.json yet")
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:300]))
    ended = Ended(capfd, "explain", run)
    assert (ended.code, ended.out) == (1, f"{run}: no signature of collapse in 300 steps\n")


def test_an_altered_record_is_seen_through(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_drifted_run(run)
    record = json.loads((run / "prune.json").read_text())
    old = {**record, "detector_version": "1"} | dict.fromkeys(("confirmed", "because"))
    (run / "prune.json").write_text(json.dumps(old))  # of the first version, which did not confirm
    assert "found by version 1 of the rules, and by today's, 3" in Ended(capfd, "explain", run).succeeded()
    assert (
        Ended(capfd, "explain", run, "-o", "x.pdf").mistake().startswith("--out x.pdf: give a file that ends in .png")
    )
    (run / "prune.json").write_text(json.dumps({**record, "value": 99.0}))
    assert "prune.json replays to ANOTHER decision" in Ended(capfd, "explain", run).succeeded()
    record["trace"]["blocks"] = record["trace"]["blocks"][:10]
    (run / "prune.json").write_text(json.dumps(record))
    assert "the recorded observations do not lead to drift" in Ended(capfd, "explain", run).mistake()
    assert Ended(capfd, "explain", tmp_path).mistake().endswith("no config.yaml there; not a run's folder")


def test_a_rescued_run_is_told_with_what_was_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_drifted_run(run)
    (run / "prune.json").unlink()
    rescue = {
        "signature": "drift",
        "confirmed": 900,
        "back_to": 600,
        "changes": {"loss.gp_weight": 0.9},
        "seconds": 9.0,
    }
    (run / "rescues.json").write_text(json.dumps([rescue]))
    lines = Ended(capfd, "explain", run).succeeded().splitlines()
    said = "rescue 1: drift, confirmed at step 900; it went back to step 600, with loss.gp_weight = 0.9"
    assert lines[0] == said
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:700]))
    lines = Ended(capfd, "explain", run).succeeded().splitlines()
    assert lines == [said, f"{run}: no signature of collapse since step 600"]


def test_a_trial_that_waits_is_told_with_its_place_and_what_it_would_have_needed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = {"preset": "digits", "set": TINY, "parameters": {"loss.w": {"grid": [0.7, 0.8, 0.9, 1.0]}}}
    search = Experiment.create(str(tmp_path / "s"), parse_space(raw, "x"), OPTIONS)
    for plan, score in zip(search.remaining(), (40.0, 10.0, 30.0, 20.0), strict=True):
        search.log("trial_started", plan)
        search.log("reported", plan, report=scored(5, score))
        if score <= 20:
            search.log("reported", plan, report=scored(6, score))
        if score > 20:
            search.log("waiting", plan, reason="waits at 42%, behind 3 that promise more")
    search.dir.push_root()
    worst = search.plans[0]
    go(tiny({"train.total_steps": 2}), search.trial_location(worst))
    lines = Ended(capfd, "explain", search.trial_location(worst)).succeeded().splitlines()
    assert lines[:3] == [
        f"waits at 42%, behind 3 that promise more, in {search.location}",
        "at 42% of its steps its trend promised 40 at the end",
        "2 others went further, and promise 10 to 20 now",
    ]
    said = Ended(capfd, "explain", search.location).succeeded()
    assert f"more: python -m act_ray.explain {search.trial_location(worst)}" in said
