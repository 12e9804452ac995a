"""A search on the page, from its log."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from act_ray.config import Config
from act_ray.dashboard.source import Entry, Source, finite_score, parsed
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST, metric_name
from act_ray.outcomes import TrialOutcome
from act_ray.runs.folder import RunFolder, read_config
from act_ray.runs.progress import FILE as PROGRESS
from act_ray.runs.progress import STALE_S, read_progress
from act_ray.runs.rows import Row, Tail
from act_ray.tune.experiment import Experiment
from act_ray.tune.rerun import rerun_command
from act_ray.tune.schedulers import Scheduler
from act_ray.tune.spent import saved_compute
from act_ray.tune.standing import budget_share, describe_standing, fill_scheduler
from act_ray.tune.table import best_after
from act_ray.tune.trials import TrialRecord

STATUS = {
    TrialOutcome.COMPLETED: "completed", TrialOutcome.PRUNED: "confirmed", TrialOutcome.SCHEDULER: "stopped",
    TrialOutcome.FAILED: "failed",
}  # fmt: skip


DEAD_S = 300.0  # without any news: it does not run any more


class SearchSource(Source):
    """A search, from its log."""

    kind = "search"

    def __init__(self, key: str, location: str) -> None:
        self.begin(location)
        super().__init__(key, self.experiment.dir)
        self.tail = Tail(self.folder.path / "events.jsonl", again=True)
        self.spent = [0.0, 0.0]  # images, seconds of training, over all trials
        self.best: list[list[float]] = []  # [images, seconds, best score so far, time]
        self.first_event, self.last_event = math.inf, 0.0
        self.moved: dict[int, float] = {}  # when each running trial last wrote its progress
        self.latest: tuple[Any, ...] | None = None  # what was news last, and when that was
        self.heard = -math.inf
        self.ran: dict[int, Config] = {}  # settings, of trials that were asked for
        self.marks: dict[int, Row] = {}
        self.stopped: dict[int, bool] = {}
        self.filled: tuple[int, Scheduler] | None = None

    def begin(self, location: str) -> None:
        self.experiment = Experiment.read(location, scratch="views", log=False)
        # Drawing trials each second would be for nothing.
        self.example, self.takes = self.experiment.space.example(), budget_share(self.experiment)

    def read(self) -> Iterator[tuple[int, Row]]:
        touched = {int(row["trial"]) for row in self.new_rows() if "trial" in row}
        touched |= {int(row["trial"]) for row in self.read_notes()}
        trials = self.experiment.trials
        open_ones = {index for index in self.entries if index in trials and self.open(trials[index])}
        if self.folder.remote is None:  # a trial that has gone on since the log's last line is news
            self.moved = {index: _modified(self.run_folder(index).path / PROGRESS) for index in open_ones}
            self.news = max(self.news, *self.moved.values(), 0.0)
        for index in sorted(touched | open_ones):
            yield index, self.row(trials[index])

    def open(self, trial: TrialRecord) -> bool:
        """Whether it runs, as far as the log knows."""
        going = self.experiment.state in ("running", None) and not self.stopped.get(trial.plan.index)
        return going and trial.outcome is None and trial.waiting is None

    def new_rows(self) -> Iterator[Row]:
        rows = self.tail.rows()
        if self.tail.restarted:  # another search is here now
            self.begin(self.folder.location)
            self.began += 1
            self.entries.clear()
            self.stopped.clear()
            self.ran.clear()
            self.first_event = math.inf
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
        self.first_event = min(self.first_event, self.last_event or math.inf)
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
            "waits": trial.waiting is not None,
            "reason": trial.waiting or trial.reason or (best_after(trial) if trial.refuted else None),
            "refuted": trial.refuted, "flag": trial.flag, "rescues": trial.rescues,
            "best": finite_score(trial.best_score), "best_step": trial.best_step,
            "last": finite_score(last.get("score")),
            "diversity": last.get("diversity"), "step": step, "total": trial.total,
            "batch": plan.config.train.global_batch, "seconds": last.get("seconds", 0.0),
            "rate": (_pace(trial) or live.steps_per_second) if live is not None and status == "running" else None,
            "pace": [[r["step"], r["seconds"]] for r in trial.reports],
            "mark": (self.marks.get(plan.index) or {}).get("mark"),
        }  # fmt: skip

    def status(self, trial: TrialRecord) -> str:
        if trial.outcome is not None:
            return STATUS[trial.outcome]
        if trial.waits_as is not None:
            return trial.waits_as
        return "running" if self.open(trial) and self.quiet < DEAD_S else "interrupted"

    @property
    def quiet(self) -> float:
        """Seconds since there was any news of it, by a clock that nobody sets: only how old news is, its stamp says."""
        latest, now = (self.news, self.last_event, self.tail.offset, self.moved), time.monotonic()
        if latest != self.latest:
            age = max(0.0, time.time() - max(self.news, self.last_event))
            self.latest, self.heard = latest, max(self.heard, now - age)
        return now - self.heard

    def about(self) -> Row:
        space, trials = self.experiment.space, list(self.experiment.trials.values())
        example = self.example
        saved = [asdict(one) for one in saved_compute(trials, space.file.scheduler)]
        state = self.experiment.state or "running"
        if state == "running" and self.quiet > STALE_S:
            # Killed, most likely; an earlier version's log does not say how it ended.
            state = ("interrupted" if self.quiet > DEAD_S else "silent") if self.experiment.state else "finished"
        return {
            "key": self.key, "kind": self.kind, "name": self.folder.name, "location": self.folder.location,
            "about": space.file.about, "preset": space.file.preset, "data": example.data.path,
            "metric": metric_name(example.eval), "parameters": list(space.file.parameters), "state": state,
            "scheduler": space.file.scheduler, "trials": space.trials,
            "planned": sum(t.total for t in trials) + (space.trials - len(trials)) * example.train.total_steps,
            "takes": self.takes,
            "images": self.spent[0], "seconds": self.spent[1], "best": self.best, "saved": saved, "bad": self.bad,
            "last_event": self.last_event, "began": self.began,
            "cluster": _local(self.folder.path / "cluster.json") if state == "running" else None,
            "resume": self.experiment.how_to_resume if state in ("silent", "interrupted") else None,
            "workers": max(1, int(self.experiment.options.get("workers_per_trial") or 0)),
        }  # fmt: skip

    def run_folder(self, index: int) -> RunFolder:
        run = RunFolder(self.experiment.trial_location(self.experiment.plans[index]), scratch="views")
        if (
            run.remote is None and not run.path.is_dir()
        ):  # a search that another version of act_ray runs names it otherwise
            run = next((RunFolder(str(path), "views") for path in run.path.parent.glob(f"{index:03d}-*")), run)
        return run

    def config(self, index: int) -> Config:
        """As it ran, which another version of act_ray may have planned otherwise."""
        if index not in self.ran:
            try:
                found = read_config(self.run_folder(index))
            except UserError:
                found = None
            if found is None:
                return self.experiment.plans[index].config
            self.ran[index] = found
        return self.ran[index]

    def standing(self, index: int) -> list[str]:
        """Where a trial that waits stands; the scheduler is filled once for each state of the log."""
        if self.experiment.trials[index].waiting is None:
            return []
        if self.filled is None or self.filled[0] != self.tail.offset:
            self.filled = (self.tail.offset, fill_scheduler(self.experiment))
        return describe_standing(self.experiment, index, self.filled[1])

    def rerun(self, index: int) -> str:
        return rerun_command(self.experiment, self.experiment.trials[index], self.config(index))


def _pace(trial: TrialRecord) -> float | None:
    """Steps per second over its last reports, with what its scores took; steadier than the speed of the moment."""
    reports = trial.reports[-4:]
    steps, seconds = (reports[-1][name] - reports[0][name] for name in ("step", "seconds")) if reports else (0, 0.0)
    return steps / seconds if seconds > 0 else None


def _spent(trial: TrialRecord | None) -> tuple[float, float]:
    last = trial.last if trial is not None else None
    return (0.0, 0.0) if last is None else (float(last["images"]), float(last["seconds"]))


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _local(path: Path) -> Any:
    try:
        return parsed(path.read_text())
    except OSError:
        return None
