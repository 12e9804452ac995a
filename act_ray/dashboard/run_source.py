"""A single run on the page, from its folder."""

from collections.abc import Iterator

from act_ray.config import Config
from act_ray.dashboard.source import Entry, Source, finite_score
from act_ray.metrics.scores import WORST, metric_name
from act_ray.runs.folder import RunFolder, read_config
from act_ray.runs.progress import has_news, read_progress
from act_ray.runs.reports import as_report
from act_ray.runs.rows import Row, Tail
from act_ray.typed import typed


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
                self.state = {"pruned": "confirmed", "stopped": "interrupted"}.get(row["event"], "completed")
        found = self.scores.rows()
        if self.scores.restarted:
            self.best, self.last = [], {}
        for row in found:
            try:
                score = WORST if row["score"] is None else float(row["score"])
            except (KeyError, TypeError, ValueError):
                self.scores.bad += 1
                continue
            self.last = row
            if score < WORST and (not self.best or score < self.best[-1][2]):
                images = row["step"] * self.cfg.train.global_batch
                self.best.append([images, 0.0, score, 0.0, row["step"]])
        self.bad = self.tail.bad + self.scores.bad
        live, result = read_progress(self.folder.path), as_report(self.folder.read("result.json")) or {}
        best = self.best[-1] if self.best else None
        flag = result.get("prune") or next((r for r in reversed(entry.story) if r["event"] == "signature"), None)
        marks = [row for row in self.notes() if "mark" in row]
        rescues = sum(row["event"] == "rescued" for row in entry.story)
        state = self.state
        if state == "running" and not has_news(self.folder.path):
            state = "interrupted"  # it was killed, or it hangs
        yield 0, {
            "id": f"{self.key}.0", "source": self.key, "index": 0, "name": self.folder.name, "values": {},
            "seed": self.cfg.train.seed, "status": state, "waits": False, "reason": None, "flag": flag,
            "rescues": rescues,
            "best": best and best[2], "best_step": best and best[4],
            "last": finite_score(self.last.get("score")), "diversity": self.last.get("diversity"),
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
        return self.cfg

    def rerun(self, index: int) -> str:
        return typed("train", "--config", f"{self.folder.location}/config.yaml")
