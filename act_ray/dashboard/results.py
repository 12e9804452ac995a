"""What the page shows: searches and single runs, read from their own logs while they are written. No torch, no Ray.

Everything is told to the page as plain data with a version; `state(since)` has what has changed since that one.
"""

import json
import re
import secrets
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST, metric_name
from act_ray.outcomes import TrialOutcome
from act_ray.runs.folder import NOTES, Folder, RunFolder, read_config
from act_ray.runs.progress import read_progress
from act_ray.runs.rows import Tail
from act_ray.tune.experiment import Experiment, TrialRecord
from act_ray.tune.rerun import rerun_command
from act_ray.tune.schedulers import Scheduler
from act_ray.tune.spent import saved_compute
from act_ray.tune.standing import describe_standing, fill_scheduler

Row = dict[str, Any]
STATUS = {
    TrialOutcome.COMPLETED: "completed", TrialOutcome.PRUNED: "collapsed", TrialOutcome.SCHEDULER: "stopped",
    TrialOutcome.FAILED: "failed",
}  # fmt: skip
REMOTE_S = 10.0  # between two looks at an object store
STALE_S = 120.0  # without news from what says that it runs
MOST_EARLIER = 6  # searches


@dataclass
class Entry:
    """A trial, or a run, as the page knows it."""

    row: Row
    version: int = 0
    story: list[Row] = field(default_factory=list)  # its events, oldest first


class Source(ABC):
    """A search's folder, or a run's."""

    kind: str

    def __init__(self, key: str, folder: Folder) -> None:
        self.key, self.folder = key, folder
        self.entries: dict[int, Entry] = {}
        self.looked, self.news, self.bad, self.read_before = 0.0, 0.0, 0, False
        self.problem = ""  # why it cannot be read now
        self.began = 0  # how often another log took the place of the one before

    def refresh(self, version: int) -> bool:
        """Read what is new, and give it this version; whether there was anything."""
        if self.folder.remote is not None:
            if time.monotonic() - self.looked < REMOTE_S:
                return False
            self.folder.fetch_root()
        self.looked = time.monotonic()
        changed = False
        for index, row in self.read():
            entry = self.entries.setdefault(index, Entry({}))
            if entry.row != row:
                entry.row, entry.version, changed = row, version, True
        if changed and self.read_before:  # what was there already is no news
            self.news = time.time()
        self.read_before = True
        return changed

    @abstractmethod
    def read(self) -> Iterator[tuple[int, Row]]:
        """The rows of entries that may have changed."""

    @abstractmethod
    def about(self) -> Row:
        """What the page shows of the source as a whole."""

    @abstractmethod
    def run_folder(self, index: int) -> RunFolder:
        """An entry's own folder."""

    def notes(self) -> list[Row]:
        """What people wrote, oldest first; each names its entry."""
        return self.folder.rows(NOTES)


class SearchSource(Source):
    """A search, from its log."""

    kind = "search"

    def __init__(self, key: str, location: str) -> None:
        self.begin(location)
        super().__init__(key, self.experiment.dir)
        self.tail = Tail(self.folder.path / "events.jsonl", again=True)
        self.spent = [0.0, 0.0]  # images, seconds of training, over all trials
        self.best: list[list[float]] = []  # [images, seconds, best score so far, time]
        self.last_event = 0.0
        self.marks: dict[int, Row] = {}
        self.stopped: dict[int, bool] = {}
        self.filled: tuple[int, Scheduler] | None = None

    def begin(self, location: str) -> None:
        self.experiment = Experiment.read(location, scratch="views", log=False)
        self.example = self.experiment.space.example()  # drawing one each second would be for nothing

    def read(self) -> Iterator[tuple[int, Row]]:
        touched = {int(row["trial"]) for row in self.new_rows() if "trial" in row}
        touched |= {int(row["trial"]) for row in self.read_notes()}
        running = {index for index, entry in self.entries.items() if entry.row.get("status") == "running"}
        for index in sorted(touched | running):
            yield index, self.row(self.experiment.trials[index])

    def new_rows(self) -> Iterator[Row]:
        rows = self.tail.rows()
        if self.tail.restarted:  # another search is here now
            self.begin(self.folder.location)
            self.began += 1
            self.entries.clear()
            self.stopped.clear()
            self.marks.clear()
            self.spent, self.best = [0.0, 0.0], []
        for row in rows:
            try:
                self.take(row)
            except (KeyError, TypeError, ValueError, AttributeError, UserError):
                self.tail.bad += 1
                continue
            yield row
        self.bad = self.tail.bad

    def take(self, row: Row) -> None:
        if row["event"] == "ended" and "outcome" not in row:
            raise UserError("of an earlier version")
        index = int(row["trial"]) if "trial" in row else None
        before = _spent(self.experiment.trials.get(index)) if index is not None else (0.0, 0.0)
        self.experiment.take(row)
        self.last_event = float(row.get("time", 0.0))
        if index is None:
            return
        # Somebody asked it to stop, and it did; it can go on.
        self.stopped[index] = row["event"] == "reported" and row["report"]["outcome"] == "stopped"
        if row["event"] == "reported":
            after, score = _spent(self.experiment.trials[index]), row["report"]["score"]
            self.spent = [self.spent[0] + max(0, after[0] - before[0]), self.spent[1] + max(0.0, after[1] - before[1])]
            if score is not None and score < WORST and (not self.best or score < self.best[-1][2]):
                self.best.append([*self.spent, score, self.last_event])
        else:
            entry = self.entries.setdefault(index, Entry({}))
            entry.story.append({name: value for name, value in row.items() if name not in ("trial", "values")})

    def read_notes(self) -> Iterator[Row]:
        marks = {int(row["trial"]): row for row in self.notes() if "mark" in row and "trial" in row}
        for index, row in marks.items():
            if index in self.experiment.trials and self.marks.get(index) != row:
                self.marks[index] = row
                yield row

    def row(self, trial: TrialRecord) -> Row:
        plan, last = trial.plan, trial.last or {}
        run, status = self.run_folder(plan.index), self.status(trial)
        if run.remote is not None and status == "running" and (text := run.read("progress.json")) is not None:
            run.path.mkdir(parents=True, exist_ok=True)
            run.write("progress.json", text)
        live = read_progress(run.path)
        step = max(trial.step, live.step) if live is not None and status == "running" else trial.step
        return {
            "id": f"{self.key}.{plan.index}", "source": self.key, "index": plan.index, "name": plan.name,
            "values": plan.values, "seed": plan.config.train.seed, "status": status,
            "reason": trial.waiting or trial.reason, "flag": trial.flag, "rescues": trial.rescues,
            "best": _score(trial.best_score), "best_step": trial.best_step, "last": _score(last.get("score")),
            "diversity": last.get("diversity"), "step": step, "total": trial.total,
            "batch": plan.config.train.global_batch, "seconds": last.get("seconds", 0.0),
            "rate": live.steps_per_second if live is not None and status == "running" else None,
            "pace": [[r["step"], r["seconds"]] for r in trial.reports],
            "mark": (self.marks.get(plan.index) or {}).get("mark"),
        }  # fmt: skip

    def status(self, trial: TrialRecord) -> str:
        if trial.outcome is not None:
            return STATUS[trial.outcome]
        if trial.waiting is not None:
            return "postponed" if trial.flag else "waiting"
        if self.stopped.get(trial.plan.index):
            return "interrupted"
        return "running" if self.experiment.state in ("running", None) else "interrupted"

    def about(self) -> Row:
        space, trials = self.experiment.space, list(self.experiment.trials.values())
        example = self.example
        saved = [asdict(one) for one in saved_compute(trials, space.file.scheduler)]
        state = self.experiment.state or "running"
        if state == "running" and time.time() - max(self.news, self.last_event) > STALE_S:
            state = "silent" if self.experiment.state else "finished"  # an earlier version's log does not say
        return {
            "key": self.key, "kind": self.kind, "name": self.folder.name, "location": self.folder.location,
            "about": space.file.about, "preset": space.file.preset, "data": example.data.path,
            "metric": metric_name(example.eval), "parameters": list(space.file.parameters), "state": state,
            "scheduler": space.file.scheduler, "trials": space.trials,
            "planned": sum(t.total for t in trials) + (space.trials - len(trials)) * example.train.total_steps,
            "images": self.spent[0], "seconds": self.spent[1], "best": self.best, "saved": saved, "bad": self.bad,
            "last_event": self.last_event, "began": self.began,
            "cluster": _local(self.folder.path / "cluster.json") if state == "running" else None,
            "workers": max(1, int(self.experiment.options.get("workers_per_trial") or 0)),
        }  # fmt: skip

    def run_folder(self, index: int) -> RunFolder:
        return RunFolder(self.experiment.trial_location(self.experiment.plans[index]), scratch="views")

    def config(self, index: int) -> Config:
        """A trial's settings."""
        return self.experiment.plans[index].config

    def standing(self, index: int) -> list[str]:
        """Where a trial that waits stands; the scheduler is filled once for each state of the log."""
        if self.experiment.trials[index].waiting is None:
            return []
        if self.filled is None or self.filled[0] != self.tail.offset:
            self.filled = (self.tail.offset, fill_scheduler(self.experiment))
        return describe_standing(self.experiment, index, self.filled[1])

    def rerun(self, index: int) -> str:
        """The command that gives the trial again."""
        return rerun_command(self.experiment, self.experiment.trials[index])


class RunSource(Source):
    """A single run, from its folder."""

    kind = "run"

    def __init__(self, key: str, location: str) -> None:
        run = RunFolder(location, scratch="views")
        super().__init__(key, run)
        cfg = read_config(run)
        assert cfg is not None
        self.cfg, self.tail = cfg, Tail(run.path / "events.jsonl", again=True)
        self.scores = Tail(run.path / "scores.jsonl", again=True)
        self.best: list[list[float]] = []
        self.last: Row = {}
        self.state = "running"

    def read(self) -> Iterator[tuple[int, Row]]:
        entry = self.entries.setdefault(0, Entry({}))
        for row in self.tail.rows():
            if "event" not in row:
                self.tail.bad += 1
                continue
            entry.story.append(row)
            if row["event"] in ("started", "resumed"):
                self.state = "running"
            elif row["event"] in ("completed", "pruned", "stopped"):
                self.state = {"pruned": "collapsed", "stopped": "interrupted"}.get(row["event"], "completed")
        found = self.scores.rows()
        if self.scores.restarted:
            self.best, self.last = [], {}
        for row in found:
            try:
                score = float(row["score"])
            except (KeyError, TypeError, ValueError):
                self.scores.bad += 1
                continue
            self.last = row
            if score < WORST and (not self.best or score < self.best[-1][2]):
                images = row["step"] * self.cfg.train.global_batch
                self.best.append([images, 0.0, score, 0.0, row["step"]])
        self.bad = self.tail.bad + self.scores.bad
        live, result = read_progress(self.folder.path), _json(self.folder.read("result.json")) or {}
        best = self.best[-1] if self.best else None
        flag = result.get("prune") or next((r for r in reversed(entry.story) if r["event"] == "signature"), None)
        marks = [row for row in self.notes() if "mark" in row]
        rescues = sum(row["event"] == "rescued" for row in entry.story)
        state = self.state
        if state == "running" and time.time() - _written(self.folder.path / "progress.json") > STALE_S:
            state = "interrupted"  # it was killed, or it hangs
        yield 0, {
            "id": f"{self.key}.0", "source": self.key, "index": 0, "name": self.folder.name, "values": {},
            "seed": self.cfg.train.seed, "status": state, "reason": None, "flag": flag, "rescues": rescues,
            "best": best and best[2], "best_step": best and best[4],
            "last": _score(self.last.get("score")), "diversity": self.last.get("diversity"),
            "step": live.step if live else self.last.get("step", 0), "total": self.cfg.train.total_steps,
            "batch": self.cfg.train.global_batch, "seconds": result.get("seconds", 0.0),
            "rate": live.steps_per_second if live and state == "running" else None, "pace": [],
            "mark": marks[-1]["mark"] if marks else None,
        }  # fmt: skip

    def about(self) -> Row:
        row = self.entries[0].row
        return {
            "key": self.key, "kind": self.kind, "name": self.folder.name, "location": self.folder.location,
            "about": "", "preset": self.cfg.preset, "data": self.cfg.data.path, "metric": metric_name(self.cfg.eval),
            "parameters": [], "state": "finished" if row["status"] == "completed" else row["status"], "scheduler": None,
            "trials": 1, "planned": row["total"], "images": row["step"] * row["batch"], "seconds": row["seconds"],
            "best": [point[:4] for point in self.best], "saved": None, "bad": self.bad, "last_event": self.news,
            "began": self.began, "cluster": None, "workers": 1,
        }  # fmt: skip

    def run_folder(self, index: int) -> RunFolder:
        assert isinstance(self.folder, RunFolder)
        return self.folder

    def config(self, index: int) -> Config:
        """The run's settings."""
        return self.cfg

    def rerun(self, index: int) -> str:
        """The command that gives the run again."""
        return f"python -m act_ray.train --config {shlex.quote(f'{self.folder.location}/config.yaml')}"


class Results:
    """All that one page shows."""

    def __init__(self, locations: Sequence[str]) -> None:
        self.sources: dict[str, SearchSource | RunSource] = {}
        self.version, self.abouts = 0, dict[str, Row]()
        self.server = secrets.token_hex(8)  # another process may show something else at this address
        self.skipped: list[str] = []
        for location in locations:
            inside = _inside(location)
            for found in inside:
                key = f"s{len(self.sources)}"
                try:
                    is_search = Folder(found, "views").read("experiment.yaml") is not None
                    self.sources[key] = SearchSource(key, found) if is_search else RunSource(key, found)
                except (UserError, KeyError, TypeError, ValueError) as error:
                    if len(inside) == 1:
                        raise UserError(f"{found}: cannot be read: {error}") from None
                    self.skipped.append(f"{found}: {error}")
        if not self.sources:
            raise UserError(f"nothing there can be read: {'; '.join(self.skipped)}")
        self.refresh()
        self.earlier = [*earlier_searches(list(self.sources.values()))]

    def refresh(self) -> None:
        """Read what is new."""
        version, changed = self.version + 1, False
        for source in self.sources.values():
            try:
                changed |= source.refresh(version)
                about = source.about()
            except (OSError, UserError) as error:  # away for a moment; the others go on
                source.problem = str(error)
                continue
            source.problem = ""
            changed |= about != self.abouts.get(source.key)
            self.abouts[source.key] = about
        self.version = version if changed else self.version

    def state(self, since: int = 0) -> Row:
        """The sources, and the entries that have changed after version `since`."""
        return {
            "version": self.version,
            "server": self.server,
            "now": time.time(),
            "skipped": self.skipped,
            "sources": [{**about, "problem": self.sources[key].problem} for key, about in self.abouts.items()],
            "earlier": self.earlier if not since else None,
            "trials": [
                entry.row for source in self.sources.values() for entry in source.entries.values()
                if entry.version > since and entry.row
            ],
        }  # fmt: skip

    def find(self, key: str) -> tuple[SearchSource | RunSource, int]:
        """The source and the index of an entry's id. Raises KeyError."""
        source, _, index = key.partition(".")
        found = self.sources[source]
        if not re.fullmatch(r"[0-9]{1,9}", index) or int(index) not in found.entries:
            raise KeyError(key)
        return found, int(index)


def earlier_searches(sources: Sequence[SearchSource | RunSource]) -> Iterator[Row]:
    """The best score so far of other searches beside these, over the same data and by the same metric, newest first."""
    shown = {source.folder.path for source in sources}
    wanted = {(about["data"], about["metric"]) for about in (source.about() for source in sources)}
    found = []
    for parent in {source.folder.path.parent for source in sources if source.kind == "search"}:
        beside = [path.parent for path in parent.glob("*/experiment.yaml") if path.parent not in shown]
        found += sorted(beside, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST_EARLIER]
    for path in found[:MOST_EARLIER]:
        try:
            other = SearchSource("earlier", str(path))
            other.refresh(1)
        except (UserError, OSError, KeyError, TypeError, ValueError):
            continue
        about = other.about()
        if other.best and (about["data"], about["metric"]) in wanted:
            yield {name: about[name] for name in ("name", "best", "images", "seconds")}


def _inside(location: str) -> list[str]:
    """The location itself, or the searches and runs in it. Raises UserError where there is none."""
    location = str(Path(location).resolve()) if "://" not in location else location.rstrip("/")
    if _is_result(location):
        return [location]
    folder = Folder(location, scratch="views")
    found = [f"{location}/{name}" for name in sorted(folder.folders("")) if _is_result(f"{location}/{name}")]
    if not found:
        raise UserError(f"{location}: no search and no run there; give the folder of one, or one that holds some")
    return found


def _is_result(location: str) -> bool:
    folder = Folder(location, scratch="views")
    return any(folder.read(name) is not None for name in ("experiment.yaml", "config.yaml"))


def _spent(trial: TrialRecord | None) -> tuple[float, float]:
    last = trial.last if trial is not None else None
    return (0.0, 0.0) if last is None else (float(last["images"]), float(last["seconds"]))


def _score(value: Any) -> float | None:
    return None if value is None or float(value) >= WORST else float(value)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _local(path: Path) -> Any:
    try:
        return _json(path.read_text())
    except OSError:
        return None


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def differences(source: SearchSource | RunSource, index: int) -> list[tuple[str, Any, Any]]:
    """(setting, its preset's value, its own) for what differs."""
    cfg = source.config(index)
    base = settings.load(cfg.preset, {}, recipe_name=cfg.recipe)
    pairs = ((name, settings.get(base, name), settings.get(cfg, name)) for name in settings.field_names())
    return [(name, before, now) for name, before, now in pairs if before != now and name not in ("preset", "recipe")]
