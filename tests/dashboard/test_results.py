"""What the page is told of searches and runs, while they are written."""

import itertools
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from act_ray import settings
from act_ray.dashboard.actions import act
from act_ray.dashboard.curves import Curves
from act_ray.dashboard.results import Results
from act_ray.dashboard.search_source import SearchSource
from act_ray.dashboard.trial_page import sample_steps, trial_page
from act_ray.errors import UserError
from act_ray.tune.table import long_reason
from tests.helpers.searches import DRIFT, append_report, lines, made_up, metrics_row, scored
from tests.helpers.tiny_runs import go, tiny
from tests.helpers.tiny_settings import AUGMENTED


def test_a_search_is_told_with_where_each_trial_is_and_why(tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    state = Results([str(tmp_path / "s")]).state()
    (source,), rows = state["sources"], state["trials"]
    assert [row["status"] for row in rows] == ["completed", "confirmed", "waiting", "postponed", "running"]
    assert [row["best"] for row in rows] == [30, 50, 100, 70, 85]
    assert rows[4]["step"] == 107  # as of its progress.json
    assert rows[2]["reason"] == "waits at 50%, behind 2 that promise more"
    assert rows[3]["flag"]["signature"] == "drift"
    assert [point[2] for point in source["best"]] == [90, 60, 40, 30]
    assert source["images"] == 64 * (400 + 400 + 200 + 100 + 100)
    assert (source["state"], source["parameters"]) == ("running", ["loss.w", "optim.lr_g"])
    assert {one["who"]: one["steps"] for one in source["saved"]} == {"collapse pruning": 0, "freeze-thaw": 200 + 300}


def test_only_what_changed_is_told_again_and_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    results = Results([str(tmp_path / "s")])
    version = results.state()["version"]
    results.refresh()
    assert results.state(version)["trials"] == []
    append_report(search, 4, 200, 55.0)
    log = tmp_path / "s" / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])  # its last line is still being written
    results.refresh()
    assert results.state(version)["trials"] == []
    log.write_bytes(whole)
    results.refresh()
    (row,) = results.state(version)["trials"]
    assert (row["index"], row["best"], row["pace"][-1]) == (4, 55.0, [200, 20.0])


def test_lines_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    log = tmp_path / "s" / "events.jsonl"
    with log.open("ab") as file:
        file.write(
            b'{"time": 1, "event": "repor\n\xff\xfe\n[]\n{"event": "reported", "trial": 4}\n{"event": "new kind"}\n'
        )
        half = {"event": "reported", "trial": 4, "values": {}, "report": {"step": 300, "score": 1.0}}
        file.write(json.dumps(half).encode() + b"\n")
    append_report(search, 4, 200, 55.0)
    state = Results([str(tmp_path / "s")]).state()
    assert state["trials"][4]["best"] == 55.0
    assert state["sources"][0]["bad"] == 6


def test_a_log_that_began_anew_is_read_anew(tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    results = Results([str(tmp_path / "s")])
    log = tmp_path / "s" / "events.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in lines(log)[:3]))
    results.refresh()
    assert [row["index"] for row in results.state()["trials"]] == [0]
    assert results.state()["sources"][0]["began"] == 1


def test_a_trial_that_somebody_stopped_does_not_run_any_more(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    results = Results([str(tmp_path / "s")])
    report = {**scored(150, 80.0), "outcome": "stopped", "rescues": 0, "given_up": 0}
    search.log("reported", search.plans[4], report=report)
    results.refresh()
    assert results.state()["trials"][4]["status"] == "interrupted"
    search.log("trial_started", search.plans[4])
    results.refresh()
    assert results.state()["trials"][4]["status"] == "running"


def test_a_killed_search_does_not_run_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens to the time of day meanwhile."""
    search = made_up(tmp_path / "s")
    results, now, clock, seen = Results([str(tmp_path / "s")]), time.time(), time.monotonic(), []
    for later, set_by in ((0, 0), (200, 3600), (400, -3600)):
        clocks = SimpleNamespace(time=lambda at=now + later + set_by: at, monotonic=lambda at=clock + later: at)
        monkeypatch.setattr("act_ray.dashboard.search_source.time", clocks)
        results.refresh()
        state = results.state()
        seen.append((state["sources"][0]["state"], state["trials"][4]["status"]))
    assert seen == [("running", "running"), ("silent", "running"), ("interrupted", "interrupted")]
    assert "--resume s --storage" in state["sources"][0]["resume"]
    with pytest.raises(UserError, match="it does not run"):
        act(results.sources["s0"], 4, "stop", "")
    progress = search.local_trial(search.plans[4]) / "progress.json"
    os.utime(progress, (now + 390, now + 390))  # it was a long step: it ran all the while
    assert Results([str(tmp_path / "s")]).state()["trials"][4]["status"] == "running"
    results.refresh()
    state = results.state()
    assert (state["sources"][0]["state"], state["trials"][4]["status"]) == ("running", "running")


def test_a_collapse_that_was_confirmed_and_then_refuted_is_told_so(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    flag = {**DRIFT, "step": 100, "confirmed": 150}
    search.log("reported", search.plans[4], report={**scored(200, 20.0), "prune": flag, "rescues": 0, "given_up": 0})
    results = Results([str(tmp_path / "s")])
    row = results.state()["trials"][4]
    assert row["refuted"]
    assert row["reason"] == "its best score, 20, came later, at step 200"
    assert "confirmed at step 150, wrongly: its best" in str(long_reason(results.sources["s0"].experiment.trials[4]))
    assert not results.state()["trials"][1]["refuted"]


def test_a_trial_is_told_as_it_ran_also_where_another_version_planned_it(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    results = Results([str(tmp_path / "s")])
    source, folder = results.sources["s0"], search.local_trial(search.plans[4])
    cfg = settings.with_changes(search.plans[4].config, {"collapse.patience": 0.15, "collapse.action": "rescue"}, "")
    (folder / "config.yaml").write_text(settings.dump(cfg))
    folder.rename(folder.with_name("004-0123abcd"))
    page = trial_page(source, 4)
    assert page["location"].endswith("/004-0123abcd")
    assert {"collapse.patience=0.15", "collapse.action=rescue", "loss.w=0.95"} <= set(page["rerun"].split())
    assert {one["name"]: one["value"] for one in page["settings"]}["collapse.patience"] == 0.15


def test_only_what_ended_before_is_earlier(tmp_path: Path) -> None:
    made_up(tmp_path / "a")
    made_up(tmp_path / "b")
    assert [one["name"] for one in Results([str(tmp_path / "b")]).earlier] == ["a"]
    assert Results([str(tmp_path / "a")]).earlier == []


def test_a_killed_run_is_not_shown_as_running(whole_augmented: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(whole_augmented, run)
    events = [row for row in lines(run / "events.jsonl") if row["event"] == "started"]
    (run / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in events))
    assert Results([str(run)]).state()["trials"][0]["status"] == "running"
    os.utime(run / "progress.json", (1, 1))
    assert Results([str(run)]).state()["trials"][0]["status"] == "interrupted"


def test_one_folder_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    made_up(tmp_path / "all" / "s")
    for name, text in (("a", "loss: {w: 7}"), ("b", "")):
        (tmp_path / "all" / name).mkdir()
        (tmp_path / "all" / name / ("config.yaml" if text else "experiment.yaml")).write_text(text)
    state = Results([str(tmp_path / "all")]).state()
    assert [source["name"] for source in state["sources"]] == ["s"]
    assert len(state["skipped"]) == 2
    assert Results([str(tmp_path / "all" / "s")]).state()["earlier"] == []  # and a search beside a broken one starts


def test_a_run_of_its_own_and_a_folder_of_several(whole_augmented: Path, tmp_path: Path) -> None:
    state = Results([str(whole_augmented)]).state()
    (source,), (row,) = state["sources"], state["trials"]
    assert (source["kind"], source["state"], row["status"], row["step"]) == ("run", "finished", "completed", 12)
    made_up(tmp_path / "all" / "s")
    go(tiny({"train.total_steps": 2}), tmp_path / "all" / "r")
    assert [s["kind"] for s in Results([str(tmp_path / "all")]).state()["sources"]] == ["run", "search"]
    with pytest.raises(UserError, match="no search and no run there"):
        Results([str(tmp_path)])


def test_a_search_on_an_object_store(tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    results = Results([(tmp_path / "s").as_uri()])
    assert len(results.state()["trials"]) == 5
    source, index = results.find("s0.0")
    assert trial_page(source, index)["story"]
    assert sample_steps(source, index)["steps"] == [100, 200, 300, 400]


# ---------------------------------------------------------------------------------------------- curves


def test_curves_grow_with_their_files_and_keep_their_extremes(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    run, curves = Results([str(tmp_path / "s")]).sources["s0"].run_folder(4), Curves()
    cfg = partial(getattr, search.plans[4], "config")
    uneven, (_, values) = curves.of(run, cfg).curve("loss_ct", 7, 0, 1e9), curves.of(run, cfg).points("loss_ct")
    edges = np.linspace(0, len(values), 8, dtype=int)
    assert uneven is not None
    assert uneven["y"] == pytest.approx([np.median(values[a:b]) for a, b in itertools.pairwise(edges)], rel=1e-4)
    first = curves.of(run, cfg).curve("loss_ct", 10, 0, 1e9)
    assert first is not None
    assert (len(first["x"]), first["high"][0], first["low"][-1]) == (
        10,
        3.0,
        pytest.approx(3 / (1 + 99 / 50), rel=1e-4),
    )
    steps, values = curves.of(run, cfg).points("gp")
    assert steps.tolist() == [0, 16, 48, 64, 80, 96]  # at 32 it was not finite
    assert np.isfinite(values).all()
    run.append("metrics.jsonl", [metrics_row(step) for step in range(100, 150)])
    assert curves.of(run, cfg).points("loss_ct")[0][-1] == 149
    run.append("metrics.jsonl", [metrics_row(step) for step in range(120, 130)])  # resumed: those steps again
    assert curves.of(run, cfg).points("loss_ct")[0].tolist() == list(range(130))
    run.truncate("metrics.jsonl", 50)
    assert curves.of(run, cfg).points("loss_ct")[0].tolist() == list(range(50))
    assert curves.of(run, cfg).curve("p_aug", 10, 0, 1e9) is None
    inside = curves.of(run, cfg).curve("loss_ct", 100, 10, 19)
    assert inside is not None
    assert inside["x"] == list(range(10, 20))


def test_the_mean_weight_is_that_of_the_loss() -> None:
    torch = pytest.importorskip("torch")
    from act_ray.core.schedule import adversarial_weight, num_levels
    from act_ray.dashboard.curves import mean_weight

    for more in (
        {},
        {"loss.w_mid": 0.0},
        {"loss.w": 1.0, "loss.w_mid": 1.0},
        {"loss.w": 0.0, "loss.w_mid": 0.0},
        AUGMENTED,
    ):
        cfg = tiny(more)
        for step in (0, 5, 11):
            N = num_levels(step, cfg.train.total_steps, cfg.step.schedule)
            expected = adversarial_weight(torch.arange(1, N), N, cfg.step.loss).mean().item()
            assert mean_weight(step, cfg) == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------------------------------------- one trial, and acting


def test_a_trials_page_has_its_story_its_evidence_and_its_command(drifted: Path, tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    run = tmp_path / "s" / "trials" / search.plans[1].name
    (run / "prune.json").write_text((drifted / "prune.json").read_text())
    source, index = Results([str(tmp_path / "s")]).find("s0.1")
    page = trial_page(source, index)
    assert [event["text"] for event in page["story"]][:2] == [
        "the search starts it",
        "started with 1 worker(s)",
    ]
    assert page["story"][-1]["text"] == "over: its collapse was confirmed"
    assert page["evidence"]["signature"] == "drift"
    assert page["evidence"]["lines"][0].startswith("drift at step ")
    assert page["rerun"].startswith("python -m act_ray.train --preset digits --set train.total_steps=400")
    assert ["train.total_steps", 1200, 400] in [[*row.values()] for row in page["settings"]]
    lineage = {"parent": "/runs/a", "step": 200, "changes": {"loss.w": 0.5}}
    (run / "lineage.json").write_text(json.dumps(lineage))
    search.log("trial_started", search.plans[1])
    results = Results([str(tmp_path / "s")])
    told = [event["text"] for event in trial_page(*results.find("s0.1"))["story"]]
    assert told[0] == "a fork of /runs/a from step 200 on, with loss.w = 0.5"
    assert told[-1] == "the search lets it go on"
    (run / "prune.json").write_text("{")
    assert trial_page(source, index)["evidence"]["lines"] == ["prune.json cannot be read"]


def test_what_can_be_done_from_the_page(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    results = Results([str(tmp_path / "s")])
    source = results.sources["s0"]
    assert isinstance(source, SearchSource)
    act(source, 4, "stop", "")
    assert (tmp_path / "s" / "trials" / search.plans[4].name / "STOP").exists()
    act(source, 2, "go_on", "")
    assert (tmp_path / "s" / "GO-2").exists()
    act(source, 0, "mark", "star")
    act(source, 0, "note", "<b>look</b>")
    results.refresh()
    assert results.state()["trials"][0]["mark"] == "star"
    assert [row["text"] for row in trial_page(source, 0)["notes"]] == ["<b>look</b>"]
    for index, action, text, why in (
        (0, "stop", "", "it does not run"),
        (0, "go_on", "", "only a trial that waits"),
        (0, "mark", "heart", "a mark is one of"),
        (0, "note", " ", "an empty note"),
        (0, "note", "x" * 2001, "at most 2,000"),
        (0, "burn", "", "no such action"),
    ):
        with pytest.raises(UserError, match=why):
            act(source, index, action, text)
