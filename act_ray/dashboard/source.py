"""What the page shows of a search or of a single run, read from its own log while it is written. No torch, no Ray."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from act_ray import jsonfile, settings
from act_ray.config import Config
from act_ray.metrics.scores import WORST
from act_ray.runs.folder import NOTES, Folder, RunFolder
from act_ray.runs.rows import Row

REMOTE_S = 10.0  # between two looks at an object store


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
        changed = moved = False
        for index, row in self.read():
            entry = self.entries.setdefault(index, Entry({}))
            if entry.row != row:
                moved |= row["step"] > entry.row.get("step", -1)
                entry.row, entry.version, changed = row, version, True
        if moved and self.read_before:  # what was there already is no news, and that there is none is not, either
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

    @abstractmethod
    def config(self, index: int) -> Config:
        """An entry's settings."""

    @abstractmethod
    def rerun(self, index: int) -> str:
        """The command that gives an entry again."""

    def differences(self, index: int) -> list[tuple[str, Any, Any]]:
        """(setting, its preset's value, its own) for what differs."""
        cfg = self.config(index)
        base = settings.load(cfg.preset, {}, recipe_name=cfg.recipe)
        pairs = ((name, settings.get(base, name), settings.get(cfg, name)) for name in settings.field_names())
        return [(name, old, new) for name, old, new in pairs if old != new and name not in ("preset", "recipe")]


def finite_score(value: Any) -> float | None:
    """A score, or None where it stands for one that could not be had."""
    return None if value is None or float(value) >= WORST else float(value)


def parsed(text: str | None) -> Any:
    """JSON, or None where a file is missing or torn."""
    try:
        return None if text is None else jsonfile.parse(text)
    except ValueError:
        return None
