"""docs/files.md: every field that it names is written, every field that is written has a name there, its lines run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from act_ray.metrics.scores import WORST
from act_ray.tune.experiment import Experiment
from act_ray.tune.ray_placement import Placement
from act_ray.tune.ray_recorder import Recorder
from act_ray.tune.results import write_results
from act_ray.tune.space_files import parse_space
from act_ray.tune.standing import fill_scheduler
from tests.helpers.command import Ended
from tests.helpers.sources import labels_in_turn, make_folder, random_pixels
from tests.helpers.tiny_runs import go, newest, tiny
from tests.helpers.tiny_settings import AUGMENTED, DIFFUSION, TINY

PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text()
OF_A_RUN = ["metrics.jsonl", "scores.jsonl", "events.jsonl", "progress.json", "result.json", "prune.json"]


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    (text,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    return str(text)


def documented(title: str) -> dict[str, bool]:
    """The fields under a heading, and whether each is always there."""
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]*) \|", section(title), re.M)
    return {name: "optional" not in value for name, value in rows}


def check(title: str, rows: list[dict[str, Any]]) -> None:
    """The rows have all fields that are documented, and always those that are not optional, and no others."""
    fields = documented(title)
    assert rows
    for row in rows:
        assert {name for name, always in fields.items() if always} <= set(row) <= set(fields), title
    assert {name for row in rows for name in row} == set(fields), title


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file, or the one object of a .json file; none of a file that is not there."""
    if not path.exists():
        return []
    if path.suffix != ".jsonl":
        return [json.loads(path.read_text())]
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row, line in zip(found, path.read_text().splitlines(), strict=True):  # as the page says
        assert row.pop("crc") == f"{zlib.crc32(line[: line.rindex(', ')].encode()):08x}"
    return found


@pytest.fixture(scope="module")
def runs(whole_augmented: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs: one that went on from a damaged checkpoint, of diffusion, one that diverges, one that keeps images back."""
    root = tmp_path_factory.mktemp("documented")
    shutil.copytree(whole_augmented, root / "whole")
    (newest(root / "whole") / "ema.safetensors").write_bytes(b"")
    go(tiny(AUGMENTED), root / "whole")
    go(tiny({**DIFFUSION, "eval.weights": ["ema", "model"]}), root / "diffusion")
    go(tiny({"optim.lr_g": 1e3, **AUGMENTED, "augment.tau": "auto", "loss.gp_interval": 1}), root / "diverged")
    go(tiny({"data.held_out": 0.05, "train.total_steps": 5}), root / "kept_back")
    rescued = {"optim.lr_g": 1e3, "collapse.action": "rescue", "collapse.rescues": 1}
    go(tiny(rescued), root / "rescued")
    go(tiny({"collapse.action": "steer", "train.total_steps": 5}), root / "steered")
    return [root / name for name in ("whole", "diffusion", "diverged", "kept_back", "rescued", "steered")]


@pytest.mark.parametrize("name", OF_A_RUN)
def test_the_fields_of_a_runs_files(name: str, runs: list[Path]) -> None:
    check(name, [row for run in runs for row in read(run / name)])


@pytest.mark.parametrize("name", ["MANIFEST.json", "state.json"])
def test_the_fields_of_a_checkpoint(name: str, runs: list[Path]) -> None:
    check(name, [row for run in runs[:2] for row in read(newest(run) / name)])


def test_the_rows_of_an_evaluation_and_the_lines_that_read_a_run(
    runs: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for which in ("best", "last"):
        args = ["--workers", 0, "--metrics", "fid,kid,prc", "--samples", 16, "--batch", 16, "--which", which]
        Ended(capfd, "evaluate", runs[0], *args).succeeded()
    check("evaluations.jsonl", read(runs[0] / "evaluations.jsonl"))
    lines = commands("A run's folder", "evaluations.jsonl", "A checkpoint")
    read_with_other_tools(lines, {"RUN": str(runs[0]), "step-00000200": newest(runs[0]).name})


def read_with_other_tools(lines: Iterable[str], names: Mapping[str, str]) -> None:
    """Each line of the page prints something, with these words replaced; a tool that is not here is left out."""
    for line in lines:
        for word, name in names.items():
            line = line.replace(word, name)
        args = shlex.split(line)
        if shutil.which(args[0]) or args[0] == "python":
            args[0] = sys.executable if args[0] == "python" else args[0]
            assert subprocess.run(args, capture_output=True, text=True, check=True).stdout.strip(), line


def commands(*titles: str) -> Iterator[str]:
    """The lines of the code blocks under these headings."""
    for title in titles:
        for block in re.findall(r"```\n(.*?)```", section(title), re.S):
            yield from block.splitlines()


def test_the_files_of_a_run(runs: list[Path]) -> None:
    patterns = [name.rstrip("/") for name in re.findall(r"^\| `([^`]+)` \|", section("A run's folder"), re.M)]
    for run in runs:
        found = [str(path.relative_to(run)) for path in run.glob("*") if path.is_file()]
        folders = ("samples", "checkpoints", "rescues")
        found += [str(path.relative_to(run)) for name in folders for path in (run / name).glob("*")]
        assert not [name for name in found if not any(fnmatch(name, pattern) for pattern in patterns)]


# ---------------------------------------------------------------------------------------------- a search, a data set


@pytest.fixture(scope="module")
def searched(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A search of five trials: one ran to its end, one collapsed, one was stopped, one failed, and one waits."""
    raw = {"preset": "digits", "set": TINY, "parameters": {"loss.w": {"grid": [0.7, 0.75, 0.8, 0.9, 1.0]}}}
    options = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}
    search = Experiment.create(str(tmp_path_factory.mktemp("search") / "search"), parse_space(raw, "test"), options)
    place = Placement({"CPU": 1.0}, concurrent=1, gpu=False, threads=1, why="")
    recorder = Recorder(search, fill_scheduler(search), place)
    whole, diverged = (read(run / "result.json")[0] for run in (runs[0], runs[2]))
    failed = {"score": WORST, "images": 0, "outcome": "failed", "reason": "the data is gone"}
    recorder.scheduler.members[2].why = "score 9 misses the cut"
    going, waits = {**whole, "outcome": None}, recorder.scheduler.members[4]
    for plan, result in zip(search.remaining(), [whole, diverged, going, failed, going], strict=True):
        trial = SimpleNamespace(config={"trial": recorder.tune_config(plan)}, last_result=result)
        waits.state, waits.why = "waiting", "waits at 40%"
        recorder.on_trial_start(0, [], trial)
        recorder.on_trial_result(0, [], trial, result)
        if plan.index != 4:
            recorder.on_trial_complete(0, [], trial)
    search.log_state("finished")
    write_results(search)
    return search


def test_the_files_of_a_search(searched: Experiment) -> None:
    folder = searched.dir.path
    rows = read(folder / "events.jsonl")
    check("events.jsonl of a search", rows)
    for row in rows:
        assert set(row.get("report", documented("result.json"))) == set(documented("result.json"))
    results = pandas.read_parquet(folder / "results.parquet")
    assert [*results] == [*pandas.read_csv(folder / "table.csv")]
    assert {*results} - {"loss.w"} == {*documented("table.csv and results.parquet")}
    read_with_other_tools(commands("A search's folder"), {"SEARCH": str(folder)})


def test_the_files_of_a_data_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = make_folder(tmp_path / "source", random_pixels(), labels_in_turn())
    (source / "class0" / "torn.png").write_bytes(b"")
    Ended(capfd, "prepare", source, tmp_path / "data", "--max-bad", 0.5).succeeded()
    check("manifest.json", read(tmp_path / "data" / "manifest.json"))
    assert {*pandas.read_parquet(tmp_path / "data" / "shard-00000.parquet")} == {"image", "label", "name"}
    read_with_other_tools(commands("A prepared data set"), {"DATA": str(tmp_path / "data")})
