"""A search's folder: its settings, its trials' folders, and one append-only log that everything is told from.

experiment.yaml   space and options; `--resume NAME` needs nothing else
events.jsonl      one row per event: trial started, reported, ended
trials/003-1a2b3c4d/   a run's folder (training/rundir.py), named by index and hash of its config
table.txt  best.png    what the search ends with
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.runs.folder import RunFolder
from act_ray.runs.storage import join, storage_is_local
from act_ray.train.loop import Report
from act_ray.tune.space import Space, parse_space
from act_ray.yamlfile import read_yaml

# Collapse is told by the folder of the trial; the scheduler's verdicts and failures only by the driver.
COMPLETED, PRUNED, SCHEDULER, FAILED = "completed", "pruned", "scheduler", "failed"


@dataclass(frozen=True)
class TrialPlan:
    """A trial before it runs."""

    index: int
    values: dict[str, Any]
    config: Config
    name: str


@dataclass
class TrialRecord:
    """What is known of a trial."""

    plan: TrialPlan
    reports: list[Report] = field(default_factory=list)
    ended: str = ""  # one of the four above; empty while it has not
    why: str = ""

    @property
    def last(self) -> Report | None:
        return self.reports[-1] if self.reports else None

    @property
    def total(self) -> int:
        return self.plan.config.train.total_steps


def plan_trial(space: Space, index: int, values: Mapping[str, Any]) -> TrialPlan:
    """A trial's config: the values, and a seed of its own that follows from the base seed and its index."""
    cfg = space.config(values)
    if "train.seed" not in space.file.parameters:
        cfg = space.config({**values, "train.seed": cfg.train.seed + 1000 * index})
    digest = hashlib.sha256(json.dumps(cfg.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    return TrialPlan(index, dict(values), cfg, f"{index:03d}-{digest[:8]}")


class Experiment:
    """Reads and writes a search's folder."""

    def __init__(self, location: str, space: Space, options: dict[str, Any]) -> None:
        self.location, self.space, self.options = location, space, options
        self.dir = RunFolder(location)
        self.trials: dict[int, TrialRecord] = {}

    @classmethod
    def create(cls, location: str, space: Space, options: dict[str, Any]) -> "Experiment":
        """Make the folder. Raises UserError when there is one of that name."""
        new = cls(location, space, options)
        new.dir.open_root()
        if (new.dir.path / "experiment.yaml").exists():
            raise UserError(f"--name: {location} exists; continue it with --resume, or choose another name")
        text = yaml.safe_dump({"space": space.file.model_dump(mode="json"), "options": options}, sort_keys=False)
        (new.dir.path / "experiment.yaml").write_text(text)
        new.dir.push_root()
        return new

    @classmethod
    def resume(cls, location: str, options: dict[str, Any]) -> "Experiment":
        """Open an interrupted search and read what its trials did; `options` go over the saved ones.

        Raises UserError when there is none of that name.
        """
        folder = RunFolder(location)
        folder.open_root()
        path = folder.path / "experiment.yaml"
        if not path.exists():
            near = [p.parent.name for p in folder.path.parent.glob("*/experiment.yaml")]
            hint = nearest(folder.path.name, near) if near else "there is none in that folder"
            raise UserError(f"--resume {location}: no such search; {hint}")
        saved = read_yaml(path.read_text(), str(path))
        experiment = cls(location, parse_space(saved["space"], str(path)), saved["options"] | options)
        for row in experiment.dir.rows("events.jsonl"):
            experiment._take(row)
        return experiment

    def trial_location(self, plan: TrialPlan) -> str:
        return join(self.location, "trials", plan.name)

    def local_trial(self, plan: TrialPlan) -> Path:
        """Where the trial's folder is on this machine; on an object store only what a worker here wrote."""
        return RunFolder(self.trial_location(plan)).path

    # ------------------------------------------------------------------------------------------ log

    def log(self, event: str, plan: TrialPlan, **details: Any) -> None:
        """Append an event, take it in, and on an object store push the log."""
        row = {"event": event, "trial": plan.index, "values": plan.values, **details}
        self.dir.event(event, **{key: value for key, value in row.items() if key != "event"})
        self._take(row)
        if event != "reported":
            self.dir.push_root()

    def _take(self, row: dict[str, Any]) -> None:
        if "trial" not in row:
            return
        index = int(row["trial"])
        if index not in self.trials:
            self.trials[index] = TrialRecord(plan_trial(self.space, index, row["values"]))
        trial = self.trials[index]
        if row["event"] == "reported":
            # A resumed trial reports again what it had reported after its last checkpoint.
            trial.reports = [r for r in trial.reports if r["step"] < row["report"]["step"]] + [row["report"]]
        elif row["event"] == "ended":
            trial.ended, trial.why = row["how"], row["why"]

    @property
    def open_plans(self) -> list[TrialPlan]:
        """Trials that began and have not ended."""
        return [trial.plan for trial in self.trials.values() if not trial.ended]

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the lowest score at its best evaluation."""
        scored = [trial for trial in self.trials.values() if trial.reports]
        return min(scored, key=lambda trial: trial.reports[-1]["best_score"], default=None)


def default_location(storage: str, name: str) -> str:
    location = join(storage, name)
    return str(Path(location).resolve()) if storage_is_local(location) else location
