"""Complete runs that were recorded, for replaying detectors and schedulers over them.

A folder of three Parquet files, or a search's folder, whose trials that ran to their end are read.

runs.parquet     run, group (only runs of the same group compare), split, config (JSON), label, diverged (step)
steps.parquet    run, step, and what metrics.jsonl has: loss_ct, gp, logit_gap, ...
scores.parquet   run, step, and what scores.jsonl has: score, diversity, d_train, d_held, ...
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST
from act_ray.runs.folder import RESCUES, Folder, RunFolder, read_config
from act_ray.runs.rows import Row
from act_ray.runs.storage import join

WATCHED = ("loss_ct", "gp")
STEPS = (*WATCHED, "loss_g", "loss_d", "logit_gap", "p_aug")
SCORES = ("score", "diversity", "loss_ct_low", "loss_ct_high", "d_train", "d_held", "d_fake")
FILES = ("runs.parquet", "steps.parquet", "scores.parquet")


@dataclass(frozen=True)
class Recorded:
    """A run that ran to its end, or until a value was not finite: its last score is then the worst, at the end."""

    name: str
    group: str
    split: str  # fit, or held-out
    label: str  # failing, or sound; empty where nobody said
    cfg: Config
    steps: dict[str, NDArray[np.float64]]  # a value per training step, nan where it was not measured
    scores: list[Row]
    diverged: int | None = None  # the step at which a value was not finite

    @property
    def total(self) -> int:
        """Steps."""
        return self.cfg.train.total_steps

    @property
    def best(self) -> float:
        """Its best score."""
        return float(min(row["score"] for row in self.scores))

    def rows(self) -> Iterator[Row]:
        """The training steps, with what the detector takes of them."""
        for step, values in enumerate(zip(*(self.steps[name].tolist() for name in WATCHED), strict=True)):
            yield {"step": step, **{n: v for n, v in zip(WATCHED, values, strict=True) if not math.isnan(v)}}


@dataclass(frozen=True)
class Found:
    """What is needed of prune.json here."""

    step: int
    value: float


# ---------------------------------------------------------------------------------------------- reading


def load_recorded(location: str) -> list[Recorded]:
    """The runs in a folder of recorded runs, or the completed trials of a search. Raises UserError."""
    source = Folder(location, scratch="views")
    source.fetch_root()
    if source.read("experiment.yaml") is not None:
        names = sorted(source.folders("trials"))
        runs = [read_run(join(source.location, "trials", name), source.name) for name in names]
        if found := [run for run in runs if run is not None]:
            return found
        raise UserError(f"{location}: no trial of this search ran to its end")
    folder = source.path
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise UserError(f"{location}: no {missing[0]} there; give a folder of recorded runs, or of a search")
    tables = [parquet.read_table(folder / name) for name in FILES]
    return [_from_tables(row, *tables[1:]) for row in tables[0].to_pylist()]


def read_run(location: str, group: str) -> Recorded | None:
    """A run's folder; None for one that neither came to its end nor diverged, was rescued, or has no score."""
    run = RunFolder(location, scratch="views")
    run.fetch_root()
    cfg, scores = read_config(run), run.rows("scores.jsonl")
    if cfg is None or not scores or run.read(RESCUES) is not None:
        return None
    diverged = None
    if scores[-1]["step"] < cfg.train.total_steps:
        found = run.read_json("prune.json", Found)
        if found is None or math.isfinite(found.value):
            return None
        diverged = found.step
        scores.append({"step": cfg.train.total_steps, "score": WORST, "diversity": None})
    table = {name: np.full(cfg.train.total_steps, np.nan) for name in STEPS}
    for row in run.rows("metrics.jsonl"):
        for name in STEPS:
            if row.get(name) is not None:
                table[name][row["step"]] = float(row[name])
    rows = [
        {"step": row["step"], **{name: _number(row.get(name)) for name in SCORES}}
        for row in scores
    ]  # fmt: skip
    return Recorded(f"{group}/{run.name}", group, "", "", cfg, table, rows, diverged)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _from_tables(row: dict[str, Any], steps: pa.Table, scores: pa.Table) -> Recorded:
    mine = [table.filter(pc.equal(table["run"], row["run"])) for table in (steps, scores)]
    cfg = settings.build(settings.upgrade(json.loads(row["config"])), row["run"])
    values = {name: mine[0][name].to_numpy().astype(np.float64) for name in STEPS}
    rows = mine[1].drop(["run"]).to_pylist()
    return Recorded(row["run"], row["group"], row["split"], row["label"], cfg, values, rows, row.get("diverged"))


# ---------------------------------------------------------------------------------------------- writing


def save_recorded(runs: Sequence[Recorded], folder: Path) -> None:
    """Write the three files; a step's values in half the digits of a float."""
    folder.mkdir(parents=True, exist_ok=True)
    names = pa.array([run.name for run in runs])
    about = {
        "run": names,
        "group": [run.group for run in runs],
        "split": [run.split for run in runs],
        "label": [run.label for run in runs],
        "diverged": pa.array([run.diverged for run in runs], pa.int64()),
        "config": [json.dumps(run.cfg.model_dump(mode="json")) for run in runs],
    }
    parquet.write_table(pa.table(about), folder / FILES[0], compression="zstd")
    steps: dict[str, Any] = {"run": _repeated((run.name for run in runs), [run.total for run in runs])}
    steps["step"] = np.concatenate([np.arange(run.total, dtype=np.int32) for run in runs])
    for name in STEPS:
        values = np.concatenate([run.steps[name] for run in runs]).astype(np.float32)
        steps[name] = pa.array((values.view(np.uint32) + 0x800 & 0xFFFFF000).view(np.float32), from_pandas=True)
    parquet.write_table(pa.table(steps), folder / FILES[1], compression="zstd", use_byte_stream_split=list(STEPS),
                        use_dictionary=["run"])  # fmt: skip
    scores: dict[str, Any] = {"run": _repeated((run.name for run in runs), [len(run.scores) for run in runs])}
    for name in ("step", *SCORES):
        scores[name] = [row.get(name) for run in runs for row in run.scores]
    parquet.write_table(pa.table(scores), folder / FILES[2], compression="zstd")


def _repeated(names: Iterable[str], counts: Sequence[int]) -> pa.Array:
    return pa.array([name for name, count in zip(names, counts, strict=True) for _ in range(count)])
