"""All that one page shows: searches and single runs, read from their own logs while they are written. No torch, no Ray.

Everything is told to the page as plain data with a version; `state(since)` has what has changed since that one.
"""

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from act_ray.dashboard.run_source import RunSource
from act_ray.dashboard.search_source import SearchSource
from act_ray.errors import UserError
from act_ray.runs.folder import Folder
from act_ray.runs.rows import Row

MOST_EARLIER = 6  # searches


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
    """The best scores of searches that ended before, over the same data by the same metric, newest first."""
    shown = {source.folder.path for source in sources}
    wanted = {(about["data"], about["metric"]) for about in (source.about() for source in sources)}
    begun = max((source.first_event for source in sources if isinstance(source, SearchSource)), default=0.0)
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
        if other.last_event > begun:
            continue
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
