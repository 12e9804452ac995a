"""A search's trials as rows, best first: table.csv for spreadsheets, results.parquet for pandas."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from act_ray.collapse.record import SUMMARY
from act_ray.files import replace_atomically
from act_ray.outcomes import TrialOutcome
from act_ray.runs.storage import join
from act_ray.tune.experiment import Experiment
from act_ray.tune.trials import TrialRecord

Row = dict[str, Any]
TYPES = {  # of the columns besides the parameters
    "index": pa.int64(), "name": pa.string(), "outcome": pa.string(), "reason": pa.string(),
    "best_score": pa.float64(), "best_step": pa.int64(), "last_score": pa.float64(), "step": pa.int64(),
    "total_steps": pa.int64(), "images": pa.int64(), "seconds": pa.float64(), "rescues": pa.int64(),
    "prune.signature": pa.string(), "prune.step": pa.int64(), "prune.value": pa.float64(),
    "prune.threshold": pa.float64(), "prune.message": pa.string(), "prune.confirmed": pa.int64(),
    "prune.because": pa.string(), "checkpoints": pa.string(),
}  # fmt: skip


def rank(experiment: Experiment) -> list[TrialRecord]:
    """Trials by their best evaluation, whose checkpoint is kept; rescued, scoreless and failed ones last."""

    def key(trial: TrialRecord) -> tuple[bool, bool, float, int]:
        score = math.inf if trial.best_score is None else trial.best_score
        return trial.outcome is TrialOutcome.FAILED, trial.rescues > 0, score, trial.plan.index

    return sorted(experiment.trials.values(), key=key)


def result_rows(experiment: Experiment) -> list[Row]:
    """A row per trial that began, best first; None where there is no value. docs/files.md has the fields."""
    rows = []
    for trial in rank(experiment):
        last = trial.last or {}
        prune: Row = {f"prune.{name}": (trial.flag or {}).get(name) for name in SUMMARY}
        numbers = {name: prune[name] for name in ("prune.value", "prune.threshold") if prune[name] is not None}
        rows.append(
            {
                "index": trial.plan.index,
                "name": trial.plan.name,
                **trial.plan.values,
                "outcome": None if trial.outcome is None else trial.outcome.value,
                "reason": trial.waiting or trial.reason,
                "best_score": trial.best_score,
                "best_step": trial.best_step,
                "last_score": last.get("score"),
                "step": trial.step,
                "total_steps": trial.total,
                "images": last.get("images", 0),
                "seconds": last.get("seconds", 0.0),
                "rescues": trial.rescues,
                **prune,
                **{name: float(value) for name, value in numbers.items()},  # "NaN" in strict JSON
                "checkpoints": join(experiment.trial_location(trial.plan), "checkpoints"),
            }
        )
    return rows


def write_results(experiment: Experiment) -> None:
    """table.csv and results.parquet in the search's folder."""
    rows, folder = result_rows(experiment), experiment.dir.path
    if rows:
        replace_atomically(folder / "table.csv", lambda temporary: write_csv(temporary, rows))
        table = pa.table({name: column(name, [row[name] for row in rows]) for name in rows[0]})
        replace_atomically(folder / "results.parquet", lambda temporary: parquet.write_table(table, temporary))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Empty where there is no value; lists as JSON."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(json.dumps(v) if isinstance(v, list | dict | bool) else v for v in row.values())


def column(name: str, values: list[Any]) -> pa.Array:
    """A column of one type; a parameter whose values have several is kept as JSON."""
    if name in TYPES:
        return pa.array(values, TYPES[name])
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([json.dumps(value) for value in values])


def format_value(value: Any) -> str:
    """A parameter or score for people: four digits, - for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
