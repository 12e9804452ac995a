"""TensorBoard's event files, read back with its own reader."""

from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from act_ray.runs.folder import RunFolder
from act_ray.runs.tensorboard import EventFiles
from tests.helpers.searches import made_up, metrics_row


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), from all event files of a folder: length, checksum, event, checksum."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.rglob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_scalars_and_hparams_are_written_as_the_rows_come(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    plan = search.plans[4]
    run = RunFolder(search.trial_location(plan), scratch="views")
    files = EventFiles(run, plan.values)
    files.refresh()
    run.append("metrics.jsonl", [metrics_row(step) for step in range(100, 120)])
    files.close()
    found = scalars(run.path / "tensorboard")
    assert [step for step, _ in found["train/loss_ct"]] == list(range(120))
    assert found["train/loss_ct"][50][1] == pytest.approx(1.5)
    assert found["eval/score"] == [(100, 85.0)]
    assert found["best_score"] == [(0, 85.0)]


def test_a_run_that_went_back_is_written_anew(tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    run = RunFolder(search.trial_location(search.plans[4]), scratch="views")
    files = EventFiles(run)
    files.refresh()
    run.truncate("metrics.jsonl", 50)
    files.close()
    assert [step for step, _ in scalars(run.path / "tensorboard")["train/loss_ct"]] == list(range(50))
