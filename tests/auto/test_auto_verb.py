"""`act-ray auto`: from images in a folder to a model and its report, killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import ConsistencyModelPipeline

from act_ray.auto.page import spread
from act_ray.auto.steps import begin
from act_ray.config import Config
from act_ray.data.shards import image_side, open_data
from act_ray.errors import UserError
from act_ray.init import start as init
from act_ray.init.candidates import Speed
from act_ray.init.choose import Machine
from act_ray.init.start import Ask
from tests.helpers.browser import CHROMIUM, browser, watched
from tests.helpers.command import Ended
from tests.helpers.sources import labels_in_turn, make_folder, random_pixels
from tests.helpers.tiny_runs import rows

HOURS = 0.1
DEADLINE_S = 600.0


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> bool:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.1)
    return False


def events(log: Path, kind: str) -> list[int]:
    """The trials of which the log has such an event."""
    return [row["trial"] for row in rows(log) if row["event"] == kind] if log.exists() else []


def test_a_mistake_is_one_line_and_nothing_is_left_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures, out, mine = tmp_path / "pictures", tmp_path / "out", tmp_path / "mine"
    make_folder(pictures, random_pixels(), labels_in_turn())
    (mine / "x").mkdir(parents=True)
    (mine / "report.html").write_text("mine")
    (tmp_path / "file").touch()
    for data, place, said in (
        (tmp_path / "nowhere", out, str(tmp_path / "nowhere")),
        (pictures, pictures / "runs", "lies inside the source"),
        (pictures, mine, f"--out {mine}: is not empty (found report.html); choose a new folder"),
        (pictures, tmp_path / "file", f"--out {tmp_path / 'file'}: cannot be written: File exists"),
        (pictures, tmp_path / "file" / "new", "cannot be written: Not a directory"),
    ):  # fmt: skip
        assert said in Ended(capfd, "auto", data, "--hours", 1, "--out", place).mistake()
    assert "--hours" in Ended(capfd, "auto", tmp_path, "--hours", 0, "--out", out).mistake()
    few = Ended(capfd, "auto", pictures, "--hours", 0.02, "--out", tmp_path / "short").mistake()
    assert few.startswith(
        "--hours 0.02: too few for starting Ray, an evaluation and a report alone; give more than 0.021"
    )
    assert {path.name for path in (tmp_path / "short").iterdir()} <= {".lock"}  # nothing was prepared or measured
    assert not out.exists()
    assert not (pictures / "runs").exists()
    assert {path.name for path in mine.iterdir()} == {"x", "report.html"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_as_all_do_and_gives_the_same_hours_again(
    number: int, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process whose search may still run in a thread: cli.run leaves without Python's own end."""
    make_folder(tmp_path / "pictures", random_pixels(), labels_in_turn())
    left = list[int]()
    monkeypatch.setattr("act_ray.auto.steps.carry_out", lambda *_: os.kill(os.getpid(), number))
    monkeypatch.setattr("act_ray.cli.leave", lambda code: (left.append(code), sys.exit(code)))
    ended = Ended(capfd, "auto", tmp_path / "pictures", "--hours", 1 / 3, "--out", tmp_path / "out")
    assert (ended.code, left) == (code, [code])
    assert f"interrupted; go on with: python -m act_ray.auto {tmp_path}/pictures --hours {1 / 3} --out" in ended.err


def test_too_few_hours_for_one_trial_takes_the_images_as_they_are_prepared(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's share of the time asks for smaller images than all of it."""
    monkeypatch.setattr(
        "act_ray.init.candidates.measure_all", lambda candidates, *_: [Speed(30.0, 1 << 30)] * len(candidates)
    )
    monkeypatch.setattr(init, "this_machine", lambda _: Machine(None, 2, 8 << 30, lpips=False))
    pixels = np.concatenate([random_pixels(), 255 - random_pixels()])
    make_folder(tmp_path / "pictures", pixels.repeat(5, 1).repeat(5, 2), 2 * labels_in_turn())
    begun = begin(str(tmp_path / "pictures"), tmp_path / "out", 1.0, Ask(search=True), print)
    assert image_side(begun["data"]) == 16
    with pytest.raises(UserError, match=r"give 0\.99 at least, and another --out"):
        begin(str(tmp_path / "pictures"), tmp_path / "other", 0.5, Ask(search=True), print)


def test_one_repeat_has_a_mean() -> None:
    assert [spread(scores) for scores in ([], [5.0], [4.0, 6.0])] == ["not run", "5", "5 ± 1.4"]


def test_the_images_are_prepared_as_the_options_say_and_a_resume_says_the_same(
    tmp_path: Path, own_cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels left out, half the size; one network that is measured, though the first question had too few hours."""
    monkeypatch.setattr(init, "this_machine", lambda _: Machine(None, 1, 8 << 30, lpips=False))
    monkeypatch.setattr("act_ray.auto.steps.measure", lambda *_: pytest.fail("that is all"))
    took = list[int]()

    def measure_all(cfgs: list[Config], gpu: Any, say: Any, enough: Callable[[Speed], bool]) -> list[Speed]:
        took.append(len(cfgs))
        enough(Speed(30.0, 1 << 30))
        return [Speed(30.0, 1 << 30)]

    monkeypatch.setattr("act_ray.init.candidates.measure_all", measure_all)
    make_folder(tmp_path / "pictures", random_pixels().repeat(2, 0), labels_in_turn() * 2)
    call = ("auto", tmp_path / "pictures", "--hours", 1, "--out", tmp_path / "out")
    with pytest.raises(pytest.fail.Exception, match="that is all"):
        Ended(capfd, *call, "--size", 8, "--grey", "--no-labels")
    data = open_data(str(tmp_path / "out" / "data"))
    assert (data.images.shape[1:], data.labels) == ((1, 8, 8), None)
    assert took == [2]
    assert "--size: " in Ended(capfd, *call, "--grey", "--no-labels").mistake()
    said = Ended(capfd, *call, "--size", 9).mistake()
    assert said == "--size 9: must be a multiple of 4; the nearest is 8"


@pytest.mark.slow
@pytest.mark.own_ray
def test_killed_in_the_search_it_goes_on_and_ends_in_time_with_a_model_and_a_report(tmp_path: Path) -> None:
    digits = open_data("digits")
    assert digits.labels is not None
    make_folder(tmp_path / "pictures", digits.images[:, 0], digits.labels.tolist())
    out = tmp_path / "out"
    command = [sys.executable, "-m", "act_ray.auto", str(tmp_path / "pictures"), "--hours", str(HOURS)]
    command += ["--out", str(out)]
    log = out / "search" / "events.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        assert until(lambda: len(events(log, "reported")) >= 3, first)  # a slow machine has time for one trial
        os.kill(first.pid, signal.SIGKILL)
        printed, _ = first.communicate(timeout=DEADLINE_S)
    assert "search: " in printed
    assert printed.index("memory: about") < printed.index("starting Ray")  # the plan comes before anything is trained
    ended, done = events(log, "ended"), list(json.loads((out / "auto.json").read_text())["done"])
    assert done == ["init", "measure", "plan"]

    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert again.returncode == 0, again.stdout + again.stderr
    saved = json.loads((out / "auto.json").read_text())
    assert [*saved["done"]] == [
        "init", "measure", "plan", "search", "fit", "repeats", "samples", "evaluate", "export", "report", "took",
    ]  # fmt: skip
    assert "measuring networks" not in again.stdout
    assert all(events(log, "trial_started").count(trial) == 1 for trial in ended)  # none is trained again
    for trial in (out / "search").glob("**/trials/*"):
        steps = [row["step"] for row in rows(trial / "metrics.jsonl")]
        assert steps == list(range(len(steps)))  # each step once
    assert 0.5 * HOURS < saved["done"]["took"]["seconds"] / 3600 < 1.25 * HOURS  # 1.1 on a machine of one's own
    assert_usable(out, saved["done"])
    third = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert third.stdout.startswith("done in ")


def assert_usable(out: Path, done: dict[str, Any]) -> None:
    """The model draws, and the report opens without asking anybody."""
    pipe = ConsistencyModelPipeline.from_pretrained(out / "model")
    assert pipe(batch_size=2, class_labels=[0, 1]).images[0].size == (8, 8)
    report = (out / "report.html").read_text()
    assert f"{done['repeats']['best']:.4g}" in report
    if CHROMIUM is None:
        return
    with browser() as chromium:
        page = chromium.new_page()
        asked, wrong = watched(page)
        page.goto((out / "report.html").as_uri())
        page.wait_for_selector("#summary img")
        page.wait_for_selector("#best .scatterlayer .trace", state="attached")  # the search's own page, below
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert wrong == []
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
