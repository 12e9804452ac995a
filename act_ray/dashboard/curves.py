"""Curves for the page: metrics.jsonl and scores.jsonl, read on as they grow, and thinned to what can be seen."""

import io
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from act_ray.config import Config
from act_ray.core.schedule import num_levels
from act_ray.dashboard.source import REMOTE_S
from act_ray.metrics.scores import WORST
from act_ray.runs.folder import RunFolder
from act_ray.runs.rows import Tail, sound_lines

METRICS = ("gp", "loss_gp", "loss_ct", "loss_g", "loss_d", "loss_dsm", "logit_gap", "p_aug", "tau", "w_gp")
SCORES = (
    "score", "score_ema", "score_teacher", "score_model", "diversity", "loss_ct_low", "loss_ct_high", "d_train",
    "d_held", "d_fake",
)  # fmt: skip
COMPUTED = ("lambda",)
FIELDS = (*METRICS, *SCORES, *COMPUTED)
KEPT = 100e6  # bytes of rows that stay in memory
PIECE = 8_000_000  # bytes that are parsed at a time
NOT_FINITE = re.compile(rb'"(?:NaN|-?Infinity)"')
Array = NDArray[np.float32]
SCHEMA = pa.schema([("step", pa.int64()), *((name, pa.float64()) for name in METRICS)])


@dataclass
class Table:
    """The rows of one file as columns."""

    tail: Tail
    names: Sequence[str]
    steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    columns: dict[str, Array] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read what was appended, piece by piece; a file that became shorter is read anew."""
        while text := self.tail.text(PIECE):
            if self.tail.restarted:
                self.steps, self.columns = np.zeros(0, np.int64), {}
            self.add(text)
        if self.tail.restarted:  # to nothing
            self.steps, self.columns = np.zeros(0, np.int64), {}

    def add(self, text: bytes) -> None:
        """Take in whole lines."""
        steps, columns = _parse(sound_lines(text), self.names)
        if len(steps) and len(self.steps) and steps[0] <= self.steps[-1]:  # a resumed run writes its last steps again
            kept = int(np.searchsorted(self.steps, steps[0]))
            self.steps, self.columns = self.steps[:kept], {name: c[:kept] for name, c in self.columns.items()}
        before = len(self.steps)
        self.steps = np.concatenate([self.steps, steps])
        for name in {*self.columns, *columns}:
            old = self.columns.get(name, np.full(before, np.nan, np.float32))
            new = columns.get(name, np.full(len(steps), np.nan, np.float32))
            self.columns[name] = np.concatenate([old, new])


def _parse(text: bytes, names: Sequence[str]) -> tuple[NDArray[np.int64], dict[str, Array]]:
    if names is METRICS:
        try:  # a hundred times as fast
            options = arrow_json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
            table = arrow_json.read_json(io.BytesIO(NOT_FINITE.sub(b"null", text)), parse_options=options)
            columns = {n: table[n].to_numpy().astype(np.float32) for n in names if table[n].null_count < len(table)}
            return table["step"].to_numpy(), columns
        except (pa.ArrowInvalid, KeyError):
            pass
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
            rows.append({"step": int(row["step"]), **{n: float(row[n]) for n in names if row.get(n) is not None}})
        except (ValueError, KeyError, TypeError):
            continue
    present = {name for row in rows for name in row} - {"step"}
    columns = {name: np.array([row.get(name, np.nan) for row in rows], np.float32) for name in present}
    return np.array([row["step"] for row in rows], np.int64), columns


class RunCurves:
    """One run's rows."""

    def __init__(self, run: RunFolder, config: Callable[[], Config]) -> None:
        self.run, self.config, self.looked = run, config, -REMOTE_S
        self.metrics = Table(Tail(run.path / "metrics.jsonl", again=True), METRICS)
        self.scores = Table(Tail(run.path / "scores.jsonl", again=True), SCORES)

    def refresh(self) -> None:
        """Read what is new."""
        if self.run.remote is not None and time.monotonic() - self.looked > REMOTE_S:
            self.looked = time.monotonic()
            self.run.fetch_root()
        self.metrics.refresh()
        self.scores.refresh()

    @property
    def nbytes(self) -> int:
        """What its rows take in memory."""
        tables = (self.metrics, self.scores)
        return sum(table.steps.nbytes + sum(c.nbytes for c in table.columns.values()) for table in tables)

    def points(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """(steps, values) of the finite values of a field."""
        if name == "lambda":
            cfg = self.config()  # read for this alone: YAML takes longer than all the rows
            steps = np.unique(np.linspace(0, cfg.train.total_steps - 1, 200, dtype=np.int64))
            return steps, np.array([mean_weight(int(step), cfg) for step in steps])
        table = self.metrics if name in METRICS else self.scores
        values = table.columns.get(name)
        if values is None:
            return np.zeros(0), np.zeros(0)
        known = np.isfinite(values)
        if name.startswith("score"):
            known &= values < WORST
        return table.steps[known], values[known]

    def curve(self, name: str, most: int, first: float, last: float) -> dict[str, list[float]] | None:
        """A field within steps first to last: at most `most` blocks, of each its median and its extremes."""
        steps, values = self.points(name)
        inside = (steps >= first) & (steps <= last)
        steps, values = steps[inside], values[inside]
        if not len(steps):
            return None
        if len(steps) <= most:
            return {"x": steps.tolist(), "y": _rounded(values)}
        edges = np.linspace(0, len(steps), most + 1, dtype=int)
        inner = values[np.lexsort((values, np.repeat(np.arange(most), np.diff(edges))))]  # each block's, sorted
        middle = edges[:-1] + edges[1:]
        return {
            "x": steps[middle // 2].tolist(),
            "y": _rounded((inner[(middle - 1) // 2] + inner[middle // 2]) / 2),
            "low": _rounded(np.minimum.reduceat(values, edges[:-1])),
            "high": _rounded(np.maximum.reduceat(values, edges[:-1])),
        }


class Curves:
    """The curves of many runs, those looked at last in memory."""

    def __init__(self) -> None:
        self.runs: OrderedDict[Path, RunCurves] = OrderedDict()
        self.held = 0  # bytes

    def of(self, run: RunFolder, config: Callable[[], Config]) -> RunCurves:
        """A run's, as it is now."""
        found = self.runs.pop(run.path, None) or RunCurves(run, config)
        self.runs[run.path] = found
        self.held -= found.nbytes
        found.refresh()
        self.held += found.nbytes
        while self.held > KEPT and len(self.runs) > 1:
            self.held -= self.runs.popitem(last=False)[1].nbytes
        return found


def mean_weight(step: int, cfg: Config) -> float:
    """lambda_N(j) at step k, averaged over j = 1..N-1: how much of the loss is adversarial (core/schedule.py)."""
    w, w_mid = cfg.loss.w, cfg.loss.w_mid
    if w == 0 or cfg.train.method != "act":
        return 0.0
    N = num_levels(step, cfg.train.total_steps, cfg.step.schedule)
    kappa = -np.log2(w_mid / w) if w_mid > 0 else np.inf
    return float(np.mean(w * (np.arange(1, N) / (N - 1)) ** kappa))


def _rounded(values: NDArray[Any]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
