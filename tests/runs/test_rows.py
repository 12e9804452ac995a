"""Rows: strict JSON, whole lines, and what a resumed run writes again."""

import json
from pathlib import Path

import pytest

from act_ray.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(str(tmp_path / "run"))
    run.open()
    return run


def test_rows_come_back_as_they_were_written(run: RunFolder) -> None:
    rows = [{"step": n, "loss": 0.1 * n, "name": "ü\u2028\n"} for n in range(3)]
    run.append("a.jsonl", rows[:2])
    run.append("a.jsonl", rows[2:])
    assert run.rows("a.jsonl") == rows
    assert run.rows("missing.jsonl") == []


def test_values_that_are_not_finite_are_strict_json(run: RunFolder) -> None:
    run.append("a.jsonl", [{"step": 0, "x": float("nan"), "deep": {"y": [float("inf"), -float("inf"), 1.5]}}])
    run.json("b.json", {"x": float("nan")})
    for name in ("a.jsonl", "b.json"):
        json.loads((run.path / name).read_text(), parse_constant=lambda word: pytest.fail(word))
    assert run.rows("a.jsonl") == [{"step": 0, "x": "NaN", "deep": {"y": ["Infinity", "-Infinity", 1.5]}}]


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3, "loss": 0.25}', "\x00\x00"])
def test_a_torn_last_line_is_dropped_and_not_glued_to_the_next(run: RunFolder, torn: str) -> None:
    """The second is whole but for its newline: whoever resumes writes it again."""
    run.append("a.jsonl", [{"step": n} for n in range(3)])
    with (run.path / "a.jsonl").open("a") as file:
        file.write(torn)
    again = RunFolder(run.location)
    again.append("a.jsonl", [{"step": 3, "new": True}])
    again.append("a.jsonl", [{"step": 4}])
    assert again.rows("a.jsonl") == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "new": True}, {"step": 4}]


def test_a_file_that_is_one_torn_line(run: RunFolder) -> None:
    (run.path / "a.jsonl").write_text('{"st')
    assert run.rows("a.jsonl") == []
    run.append("a.jsonl", [{"step": 0}])
    assert (run.path / "a.jsonl").read_text() == '{"step": 0, "crc": "4aadb3ac"}\n'


def test_truncate_drops_what_a_resumed_run_writes_again(run: RunFolder) -> None:
    run.append("a.jsonl", [{"step": n, "x": 0.1 + 0.2, "bad": float("nan")} for n in range(5)])
    before = (run.path / "a.jsonl").read_text()
    run.truncate("a.jsonl", 5)
    assert (run.path / "a.jsonl").read_text() == before
    with (run.path / "a.jsonl").open("a") as file:
        file.write('{"step": 5, ')
    run.truncate("a.jsonl", 3)
    assert (run.path / "a.jsonl").read_text() == "".join(before.splitlines(keepends=True)[:3])
    run.truncate("a.jsonl", 0)
    assert run.rows("a.jsonl") == []
