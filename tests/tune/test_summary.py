"""What a search ends with, told from its log: the table, the best trial, and files that other tools read."""

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from act_ray import settings
from act_ray.tune.experiment import Experiment
from act_ray.tune.progress_line import ProgressLine
from act_ray.tune.schedulers import Verdict
from act_ray.tune.space import Space
from act_ray.tune.space_files import load_space, parse_space
from act_ray.tune.standing import fill_scheduler
from act_ray.tune.summary import conclude
from tests.helpers.searches import DRIFT, OPTIONS, scored


def nine(**over: Any) -> Space:
    """The default space with nine trials of 700 steps."""
    return load_space("digits", {"trials": 9, **over}, {"train.total_steps": 700})


class Told:
    """A search of the default space whose log says what the tests tell it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], space: Any = None) -> None:
        self.experiment = Experiment.create(str(folder / "s"), space or nine(), OPTIONS)
        self.plans, self.capsys = self.experiment.remaining(), capsys

    def trial(self, index: int, *reports: dict[str, Any], **end: Any) -> None:
        """Log a trial's reports, and how it ended, if it did."""
        plan = self.plans[index]
        self.experiment.log("trial_started", plan)
        for report in reports:
            self.experiment.log("reported", plan, report=report)
        if end:
            self.experiment.log("ended", plan, **{"reason": None, "prune": None, **end})

    def printed(self) -> str:
        """What the search ends with, after it was read again from its folder as --resume does."""
        conclude(Experiment.resume(self.experiment.location, {}), "FD")
        return self.capsys.readouterr().out


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Makes a search in an 80-column terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    return lambda space=None: Told(tmp_path, capsys, space)


def nine_trials(search: Told) -> None:
    """The best one collapsed after its best score."""
    search.trial(0, scored(400, 83.3), scored(560, 95.0, 83.3, 400), outcome="pruned", prune=DRIFT)
    search.trial(1, scored(700, 90.0), outcome="completed")
    search.trial(2, scored(280, 300.0), outcome="scheduler", reason="score 300 misses ASHA's cut at 17,920 images")
    search.trial(3, outcome="failed", reason="OSError: no space left")
    search.trial(4, scored(100, None), outcome="pruned", prune={**DRIFT, "signature": "divergence", "value": "NaN"})
    search.trial(5, scored(100, 400.0))
    search.experiment.log("waiting", search.plans[5], reason="waits at 14%, behind 5 that promise more")
    search.trial(6, {**scored(140, 500.0), "prune": {**DRIFT, "confirmed": None, "because": None}})
    search.experiment.log("waiting", search.plans[6], reason="waits at 20%, behind 5 that promise more")
    for index in (7, 8):
        search.trial(index)


def test_the_default_search_has_a_column_for_each_parameter_in_100_columns(
    told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = told()
    monkeypatch.setenv("COLUMNS", "100")
    nine_trials(search)
    lines = search.printed().splitlines()
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 100
    first = next(line for line in table if line.startswith("000")).split()
    assert first[1:] == ["0.9", "0.3", "0.3", "16", "0.0032", "0.00129", "83.3", "400", "560", "drift", "confirmed"]
    said = f"{search.plans[0].name}: drift at step 480: L_CT rose to 0.4, above 0.3; confirmed at step 560: no score"
    assert any(line.startswith(said[:99]) for line in table)


def test_what_does_not_fit_wraps_and_what_is_the_same_is_said_once(told: Callable[..., Told]) -> None:
    parameters = {f"schedule.{name}": {"choice": [0.123456, 0.123457]} for name in ("t_min", "mu0", "sigma_data")}
    parameters |= {f"optim.{name}": {"choice": [0.0123456, 0.01234]} for name in ("lr_g", "lr_d", "beta1", "beta2_g")}
    parameters |= {f"loss.{name}": {"choice": [0.5]} for name in ("w", "w_mid")}
    parameters |= {f"augment.{name}": {"choice": [0.512345, 0.512346]} for name in ("tau", "p_step", "gp_decay")}
    search = told(parse_space({"preset": "digits", "parameters": parameters, "trials": 4}, "x"))
    for index in range(4):
        search.trial(index, scored(10, 5.0), outcome="completed")
    lines = search.printed().splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 80
    assert "All: loss.w = 0.5, loss.w_mid = 0.5." in " ".join(lines)
    assert sum("loss.w=" in line for line in lines[: lines.index("")]) == 0


def test_the_best_trial_is_told_with_its_checkpoint_and_what_became_of_it(told: Callable[..., Told]) -> None:
    search = told()
    nine_trials(search)
    lines = search.printed().splitlines()
    name = search.plans[0].name
    assert f"best: {name}, score 83.3 at step 400 of 700; it was stopped for drift at step 480" in lines
    folder = f"{search.experiment.location}/trials/{name}"
    assert f"its checkpoint: {folder}/checkpoints/step-00000400" in lines
    assert f"sample from it: python -m act_ray.sample {folder}" in lines
    again = next(line for line in lines if line.startswith("run it again: "))
    assert again.endswith("--set collapse.action=record (collapse.action=record lets it go on past its collapse)")
    words = shlex.split(again.partition(" (")[0])
    overrides = settings.parse_overrides(words[i + 1] for i, word in enumerate(words) if word == "--set")
    assert overrides.pop("collapse.action") == "record"
    assert settings.load(words[words.index("--preset") + 1], overrides) == search.plans[0].config
    said = "1 stopped by freeze-thaw, 1 wait, 1 wait with a signature of collapse, 1 failed, 2 not ended"
    assert f"9 trials: 1 ran to their end, 2 stopped, as their collapse was confirmed, {said}" in lines


def test_a_search_that_an_earlier_version_began_goes_on_in_the_same_folders(told: Callable[..., Told]) -> None:
    """Whose settings were fewer, and so were hashed to other names."""
    search = told()
    for name in ("004-0a1b2c3d", ".ipynb_checkpoints", "005-0a1b2c3d copy", "006-0a1b2c3d", search.plans[6].name):
        (search.experiment.dir.path / "trials" / name).mkdir(parents=True)
    search.trial(4, scored(100, 400.0))
    assert search.plans[4].name != "004-0a1b2c3d"
    again = Experiment.resume(search.experiment.location, {})
    assert [plan.name for plan in again.remaining()][4] == again.trials[4].plan.name == "004-0a1b2c3d"
    assert [again.plans[i].name for i in (3, 5, 6)] == [search.plans[i].name for i in (3, 5, 6)]


def test_who_is_asked_to_go_on_is_told_once_and_goes_on_after_an_interruption(told: Callable[..., Told]) -> None:
    search = told()
    for index in (1, 2):
        search.trial(index, scored(175, 400.0 * index))
        search.experiment.log("waiting", search.plans[index], reason="waits at 25%, until others have begun")
    for name in ("GO-2", "GO-7", "GO-x"):  # 7 has not begun
        (search.experiment.dir.path / name).touch()
    assert search.experiment.asked_to_go_on() == [2]
    assert search.experiment.asked_to_go_on() == []
    assert not list(search.experiment.dir.path.glob("GO-*"))
    again = fill_scheduler(Experiment.resume(search.experiment.location, {}))
    assert again.next() == 2
    again.begin(2)
    assert again.report(2, 0.5, 900.0) is Verdict.GO


def test_damaged_lines_of_the_log_lose_nothing_else(told: Callable[..., Told]) -> None:
    search = told()
    search.trial(0, scored(700, 90.0), outcome="completed")
    log = search.experiment.dir.path / "events.jsonl"
    with log.open("ab") as file:
        file.write(b'{"time": 1, "event": "repo\n\xff\xfe\xfa\n[1]\n{"event": "reported", "trial": 1}\n')
        file.write(b'{"event": "reported", "trial": 1, "values": {}, "report": {"step": 3}}\n')
        file.write(b'{"event": "ended", "trial": "x", "outcome": "completed"}\n')
    search.trial(1, scored(700, 80.0), outcome="completed")
    again = Experiment.resume(search.experiment.location, {})
    assert [trial.best_score for trial in again.trials.values()] == [90.0, 80.0]
    assert again.bad == 6
    assert again.unfinished == 7


def test_audits_say_how_many_confirmed_collapses_were_wrong(told: Callable[..., Told]) -> None:
    search = told(nine(audit_fraction=1.0, scheduler="none"))
    search.trial(0, scored(700, 50.0), outcome="completed")
    search.trial(1, scored(700, 60.0), outcome="completed", prune=DRIFT)  # confirmed at 560, better at 700
    search.trial(2, scored(700, 99.0, 55.0, 200), outcome="completed", prune=DRIFT)
    search.trial(3, scored(560, 300.0), outcome="pruned", prune=DRIFT)
    assert all(search.experiment.space.audits(index) for index in range(4))
    printed = search.printed()
    name = search.plans[1].name
    assert (
        "audits: 2 trials went on after their collapse was confirmed, for 280 steps; 1 had a better score then"
        in printed
    )
    assert f"within 1.5 times the best ({name}): 9% to 91% of such stops are wrong" in printed
    assert "ran on, as an audit, after drift" in printed


def test_a_trial_that_was_given_up_and_waits_is_told_as_confirmed(told: Callable[..., Told]) -> None:
    """Nothing is thrown away: it counts as worse, and may be the best so far."""
    search = told()
    search.trial(0, {**scored(560, 95.0, 83.3, 400), "prune": DRIFT})
    search.experiment.log("waiting", search.plans[0], reason="waits at 80%, behind 2 that promise more")
    search.trial(1, scored(700, 90.0), outcome="completed")
    printed = search.printed()
    assert "1 wait with a confirmed collapse" in printed
    assert next(line for line in printed.splitlines() if line.startswith("000")).endswith("confirmed")
    assert "140 by freeze-thaw" in printed
    assert "it waits at 80%, behind 2 that promise more, step 560; --budget lets more go on" in printed
    assert "--set collapse.action=record (" in printed  # as it would stop before its best score was reached again
    search.experiment.log_state("interrupted")  # what waits may still get all of its steps
    assert "compute saved: 0 of 1,400 planned steps (0%): no trial was stopped early" in search.printed()


def test_before_the_first_score_nobody_is_the_best(told: Callable[..., Told]) -> None:
    search = told()
    search.trial(0)
    search.trial(1, scored(100, None), outcome="pruned", prune={**DRIFT, "signature": "divergence"})
    printed = search.printed()
    assert "best: no trial has a score yet" in printed
    assert "e+09" not in printed
    assert "run it again" not in printed


def test_results_are_read_in_one_line(told: Callable[..., Told]) -> None:
    search = told()
    nine_trials(search)
    search.printed()
    folder = search.experiment.dir.path
    rows = parquet.read_table(folder / "results.parquet").to_pylist()
    assert [row["index"] for row in rows] == [0, 1, 2, 5, 6, 4, 7, 8, 3]
    best, diverged, failed = rows[0], rows[5], rows[-1]
    assert {name: best[name] for name in ("outcome", "best_score", "best_step", "last_score", "step", "images")} == {
        "outcome": "pruned", "best_score": 83.3, "best_step": 400, "last_score": 95.0, "step": 560, "images": 35840,
    }  # fmt: skip
    assert {name: best[name] for name in search.plans[0].values} == search.plans[0].values
    assert (best["prune.signature"], best["prune.step"], best["prune.value"]) == ("drift", 480, 0.4)
    assert diverged["prune.value"] != diverged["prune.value"]  # NaN
    assert (failed["best_score"], failed["reason"]) == (None, "OSError: no space left")
    with (folder / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == [row["name"] for row in rows]
    assert (table[-1]["best_score"], table[0]["best_score"]) == ("", "83.3")


def test_parameters_keep_their_types_and_several_become_json(told: Callable[..., Told]) -> None:
    parameters = {"model.attention_head_dim": {"grid": [8, None]}, "optim.lr_d": {"grid": [0.001, "0.002"]}}
    search = told(parse_space({"preset": "digits", "parameters": parameters, "search": "grid"}, "x"))
    for index in range(4):
        search.trial(index, scored(10, 5.0))
    search.printed()
    table = parquet.read_table(search.experiment.dir.path / "results.parquet")
    assert table["model.attention_head_dim"].to_pylist() == [8, 8, None, None]
    assert table["optim.lr_d"].to_pylist() == ["0.001", '"0.002"'] * 2


def test_the_progress_line_fits_80_columns(told: Callable[..., Told]) -> None:
    search = told(load_space("digits", {"trials": 48}, {"train.total_steps": 999_999}))
    search.trial(0, scored(500_000, 0.0123), outcome="completed")
    for index in range(1, 33):
        search.trial(index, scored(1, 9876.54321))
    line = ProgressLine(search.experiment).line()
    assert line == "2%: 1/48 ended, 32 running, 320 steps/s, best 0.0123 (000), 24:18:19 left"
    assert len(line) < 80


def test_the_progress_line_counts_what_the_search_takes_and_not_what_waits(told: Callable[..., Told]) -> None:
    search = told()
    search.trial(0, scored(350, 50.0))
    search.trial(1, scored(245, 60.0))
    search.experiment.log("waiting", search.plans[1], reason="waits at 35%, behind 5 that promise more")
    line = ProgressLine(search.experiment).line()
    assert line == "16%: 0/9 ended, 1 running, 1 waiting, 10.0 steps/s, best 50 (000), 0:05:18 left"
