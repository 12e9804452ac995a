"""A run's rows as TensorBoard event files, for those who live there: written from what the run writes anyway."""

import json
import shutil
from pathlib import Path
from typing import Any

from act_ray.runs.folder import RunFolder
from act_ray.runs.rows import Row, Tail

FOLDER = "tensorboard"
SCORED = ("score", "diversity")


class EventFiles:
    """Scalars of metrics.jsonl and scores.jsonl, and with `values` HParams: the searched settings and the best score.

    They go to `folder`, or to tensorboard/ in the run's own. Raises OSError where they cannot be written.
    """

    def __init__(self, run: RunFolder, values: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        self.run, self.values, self.folder = run, values, folder or run.path / FOLDER
        self.begin()

    def begin(self) -> None:
        """From the run's first row: a run that went on from a checkpoint has written some steps again."""
        from tensorboardX import SummaryWriter  # it comes with Ray Tune

        shutil.rmtree(self.folder, ignore_errors=True)
        self.metrics, self.scores = (
            Tail(self.run.path / name, again=True) for name in ("metrics.jsonl", "scores.jsonl")
        )
        self.best: float | None = None
        self.writer = SummaryWriter(str(self.folder))

    def refresh(self) -> None:
        """Write what is new."""
        self.run.fetch_root()
        metrics = self.metrics.rows()
        if self.metrics.restarted:
            self.writer.close()
            self.begin()
            metrics = self.metrics.rows()
        for row in metrics:
            self._write("train", row, [name for name in row if name != "step"])
        for row in self.scores.rows():
            self._write("eval", row, [name for name in row if name.startswith(SCORED)])
            if row["score"] is not None:
                score = float(row["score"])
                self.best = score if self.best is None else min(score, self.best)
        self.writer.flush()

    def _write(self, what: str, row: Row, names: list[str]) -> None:
        for name in names:
            if row[name] is not None:
                self.writer.add_scalar(f"{what}/{name}", float(row[name]), int(row["step"]))

    def close(self) -> None:
        """Write the rest, and the HParams."""
        self.refresh()
        if self.values is not None and self.best is not None:
            shown = {n: v if isinstance(v, bool | int | float | str) else json.dumps(v) for n, v in self.values.items()}
            self.writer.add_hparams(shown, {"best_score": self.best}, name="hparams")
        self.writer.close()
