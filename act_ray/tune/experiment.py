"""A search's folder: its settings, its trials' folders, and one append-only log that everything is told from.

experiment.yaml   space and options; `--resume NAME` needs nothing else
events.jsonl      one row per event: trial started, reported, ended
trials/003-1a2b3c4d/   a run's folder (runs/folder.py), named by index and hash of its config
table.txt  table.csv  results.parquet  best.png    what the search ends with
"""

import contextlib
import copy
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import TypedDict

from act_ray import jsonfile
from act_ray.errors import UserError, nearest
from act_ray.outcomes import TrialOutcome
from act_ray.runs.folder import GO_ON, Folder
from act_ray.runs.lock import LOCK
from act_ray.runs.reports import Ended, Report, check
from act_ray.runs.retries import StoreError
from act_ray.runs.rows import parse_rows
from act_ray.runs.storage import join, storage_is_local
from act_ray.tune.space import Space
from act_ray.tune.space_files import parse_space
from act_ray.tune.trials import TrialPlan, TrialRecord, plan_trial
from act_ray.typed import typed
from act_ray.yamlfile import read_yaml, write_yaml


class Options(TypedDict, total=False):
    """How the trials are placed: what --resume may change."""

    workers_per_trial: NonNegativeInt
    concurrent: PositiveInt | None
    gpu: bool | None
    max_failures: NonNegativeInt
    budget: str | None
    finalists: PositiveInt | None
    tensorboard: bool | None


class Settings(TypedDict):
    """experiment.yaml."""

    space: dict[str, Any]
    options: dict[str, Any]


class Experiment:
    """Reads and writes a search's folder."""

    def __init__(self, location: str, space: Space, options: dict[str, Any], scratch: str = "runs") -> None:
        self.location, self.space, self.options = location, space, dict(options)
        self.dir = Folder(location, scratch)
        self.plans: dict[int, TrialPlan] = {}  # of trials that ran, run, or are to run
        self.trials: dict[int, TrialRecord] = {}  # of trials that began
        self.bad = 0  # lines of the log that cannot be read, and are left out
        self._asked = 0.0
        self.new = False  # made by this process
        self.state: str | None = None  # running, interrupted or finished, as of the log's end; a kill leaves it running
        # Folders that are there: another version of act_ray, with more settings, would hash to other names.
        self.begun: dict[int, list[str]] = {}
        for name in sorted(self.dir.folders("trials")):
            if re.fullmatch(r"\d{3,}-[0-9a-f]{8}", name):
                self.begun.setdefault(int(name[:-9]), []).append(name)

    @classmethod
    def create(cls, location: str, space: Space, options: dict[str, Any]) -> "Experiment":
        """Make the folder. Raises UserError when there is one of that name."""
        new = cls(location, space, options)
        new.dir.open_root()
        if (new.dir.path / "experiment.yaml").exists():
            raise UserError(
                f"--name: {location} exists; continue it with `{new.resume_command}`, or choose another name"
            )
        new.write_settings()
        new.dir.push_root()
        new.new = True
        return new

    def discard(self) -> None:
        """Take back what `create` and a search that was refused have written."""
        for name in ("experiment.yaml", "events.jsonl", "cluster.json", LOCK):
            (self.dir.path / name).unlink(missing_ok=True)
            if self.dir.remote is not None and self.dir.remote.exists(name):
                self.dir.remote.delete_file(name)
        shutil.rmtree(self.dir.path / "ray", ignore_errors=True)  # Ray Tune had begun
        if self.dir.remote is not None:
            self.dir.remote.delete_folder("ray")
        with contextlib.suppress(OSError):  # something else is in it
            self.dir.path.rmdir()

    @classmethod
    def resume(cls, location: str, options: dict[str, Any]) -> "Experiment":
        """Open an interrupted search and read what its trials did; `options` go over the saved ones.

        Raises UserError when there is none of that name.
        """
        require_search(location, "--resume")
        resumed = cls.read(location, options)
        resumed.write_settings()  # an interruption of this one is resumed with these options
        return resumed

    @classmethod
    def read(
        cls, location: str, options: dict[str, Any] | None = None, scratch: str = "runs", log: bool = True
    ) -> "Experiment":
        """The search in this folder, as its log tells it; `scratch` "views" to look at one that may be running.

        log: whether to read it; a caller that follows the log hands its rows to `take`.

        Raises UserError for one of an earlier version.
        """
        where = f"{location}/experiment.yaml"
        saved = read_settings(Folder(location).read("experiment.yaml") or "", where)
        experiment = cls(location, parse_space(saved["space"], where), saved["options"] | (options or {}), scratch)
        experiment.dir.open_root()
        path = experiment.dir.path / "events.jsonl"
        rows, experiment.bad = parse_rows(path.read_bytes(), path.name) if log and path.exists() else ([], 0)
        for row in rows:
            if row.get("event") == "ended" and "outcome" not in row:
                raise UserError(
                    f"--resume {location}: begun with an earlier version of act_ray, whose log has other fields; "
                    "start a new search"
                )
            try:
                experiment.take(row)
            except (KeyError, TypeError, ValueError, UserError):  # a line that was damaged, and is JSON all the same
                experiment.bad += 1
        return experiment

    def snapshot(self) -> "Experiment":
        """As it is now, for another thread."""
        copied = copy.copy(self)
        copied.trials = dict(self.trials)
        return copied

    def write_settings(self) -> None:
        """experiment.yaml."""
        saved = {"space": self.space.file.model_dump(mode="json"), "options": self.options}
        self.dir.write("experiment.yaml", write_yaml(saved))

    # ------------------------------------------------------------------------------------------ trials

    def plan(self, index: int, values: Mapping[str, Any]) -> TrialPlan:
        """The plan of a trial, made at the first call for its index."""
        if index not in self.plans:
            plan = plan_trial(self.space, index, values)
            there = self.begun.get(index, [plan.name])
            self.plans[index] = replace(plan, name=plan.name if plan.name in there else there[-1])
        return self.plans[index]

    def remaining(self) -> list[TrialPlan]:
        """The trials that are known and have not ended, begun or not; of Optuna's search only those begun."""
        if self.space.file.search != "optuna":
            for index, values in enumerate(self.space.draw()):
                self.plan(index, values)
        return [plan for index, plan in sorted(self.plans.items()) if not self._ended(index)]

    def _ended(self, index: int) -> bool:
        return index in self.trials and self.trials[index].outcome is not None

    @property
    def unfinished(self) -> int:
        """How many trials are still to run, or to end."""
        return self.space.trials - sum(self._ended(index) for index in self.trials)

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the lowest score at its best evaluation, rescued ones last; None while there is no score."""
        trials = [
            t for t in list(self.trials.values()) if t.outcome is not TrialOutcome.FAILED
        ]  # Tune's thread adds some
        scored = [(t.rescues > 0, t.best_score, t.plan.index) for t in trials if t.best_score is not None]
        return self.trials[min(scored)[2]] if scored else None

    @property
    def how_to_resume(self) -> str:
        """A line that says what to type to go on."""
        return f"go on with: {self.resume_command}"

    @property
    def resume_command(self) -> str:
        """What to type to go on."""
        storage, _, name = self.location.rpartition("/")
        return typed("tune", "--resume", name, "--storage", storage)

    def trial_location(self, plan: TrialPlan) -> str:
        """Where the trial's folder is: a path, or a URI."""
        return join(self.location, "trials", plan.name)

    def local_trial(self, plan: TrialPlan) -> Path:
        """Where the trial's folder is on this machine; on an object store only what a worker here wrote."""
        return Folder(self.trial_location(plan)).path

    def retry_failed(self) -> int:
        """Open the trials that failed again; how many. They go on from their checkpoints, where they have some."""
        failed = [trial for trial in self.trials.values() if trial.outcome is TrialOutcome.FAILED]
        for trial in failed:
            self.log("retried", trial.plan)
        return len(failed)

    def ask_to_go_on(self, index: int) -> None:
        """Ask the search that runs in this folder to let a waiting trial go on: by a file."""
        if self.dir.remote is not None:
            self.dir.remote.write(f"{GO_ON}{index}")
        else:
            (self.dir.path / f"{GO_ON}{index}").touch()

    def asked_to_go_on(self) -> list[int]:
        """The waiting trials that somebody asks to go on, by a file GO-INDEX in the search's folder; it is deleted.

        An object store is asked at most once in ten seconds.
        """
        if self.dir.remote is not None and time.monotonic() - self._asked < 10:
            return []
        self._asked, found = time.monotonic(), list[str]()
        with contextlib.suppress(OSError):  # a store that is away for a moment is asked again
            if self.dir.remote is None:
                found = [path.name for path in self.dir.path.glob(f"{GO_ON}*")]
            else:
                found = [name for name in self.dir.remote.listing("", recursive=False)[0] if name.startswith(GO_ON)]
            for name in found:
                (self.dir.path / name).unlink(missing_ok=True)
                if self.dir.remote is not None:
                    self.dir.remote.delete_file(name)
        indices = [int(name[len(GO_ON) :]) for name in found if name[len(GO_ON) :].isdigit()]
        wanted = [index for index in indices if index in self.trials and self.trials[index].waiting is not None]
        for index in wanted:
            self.log("favoured", self.trials[index].plan)
        return wanted

    # ------------------------------------------------------------------------------------------ log

    def log(self, event: str, plan: TrialPlan, **details: Any) -> None:
        """Append an event, take it in, and on an object store push the log."""
        row = {"trial": plan.index, "values": plan.values, **details}
        self.dir.event(event, **row)
        self.take({"event": event, **row})
        if event != "reported":
            with contextlib.suppress(StoreError):  # the next event brings it along; a store that stays away ends trials
                self.dir.push_root()

    def log_state(self, state: str) -> None:
        """That the search runs now, was interrupted, or is finished: `running`, `interrupted`, `finished`."""
        self.dir.event("search", state=state)
        self.take({"event": "search", "state": state})
        self.dir.push_root()

    def take(self, row: dict[str, Any]) -> None:
        """Take in a row of the log."""
        if row["event"] == "search":
            self.state = str(row["state"])
            return
        index = int(row["trial"])
        if row["event"] == "reported":
            check(row["report"], Report)
        if row["event"] == "ended":
            check(row, Ended)
        if row["event"] == "waiting" and not isinstance(row["reason"], str):
            raise ValueError("no reason")
        outcome = TrialOutcome(row["outcome"]) if row["event"] == "ended" else None
        trial = self.trials.setdefault(index, TrialRecord(self.plan(index, row["values"])))
        if row["event"] == "favoured":
            trial.favoured = True
            return
        trial.waiting = row["reason"] if row["event"] == "waiting" else None
        if row["event"] == "reported":
            # A resumed trial reports again what it had reported after its last checkpoint.
            trial.reports = [r for r in trial.reports if r["step"] < row["report"]["step"]] + [row["report"]]
        elif row["event"] == "retried":
            trial.outcome = trial.reason = None
        elif row["event"] == "ended":
            trial.outcome, trial.reason, trial.prune = outcome, row.get("reason"), row.get("prune")


def read_settings(text: str, where: str) -> Settings:
    """What experiment.yaml says. Raises UserError in one line, also for an empty one."""
    if not text.strip():
        raise UserError(
            f"{where}: is empty, so the search's settings are lost; its trials' folders are runs as any other"
        )
    saved = read_yaml(text, where)
    try:
        jsonfile.checked(saved, Settings)
        jsonfile.checked(saved["options"], Options)
    except ValueError as error:
        raise UserError(f"{where}: damaged, or of another version: {error}") from None
    found: Settings = saved
    return found


def require_search(location: str, option: str) -> None:
    """Raises UserError, naming what is near, where there is no search."""
    folder = Folder(location)
    if folder.read("experiment.yaml") is None:
        near = [p.parent.name for p in folder.path.parent.glob("*/experiment.yaml")]
        hint = nearest(folder.path.name, near) if near else "there is none in that folder"
        raise UserError(f"{option} {location}: no such search; {hint}")


def default_location(storage: str, name: str) -> str:
    """The folder of the search NAME in --storage; absolute where it is of this machine."""
    location = join(storage, name)
    return str(Path(location).resolve()) if storage_is_local(location) else location
