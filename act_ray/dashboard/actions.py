"""What can be done from the page: stop a trial, let one go on, mark it, write a note."""

import time
from collections.abc import Callable

from act_ray.dashboard.run_source import RunSource
from act_ray.dashboard.search_source import SearchSource
from act_ray.errors import UserError
from act_ray.runs.folder import NOTES

Target = SearchSource | RunSource
MARKS = ("star", "doubt", "")
MOST = 2_000  # characters of a note


def stop(source: Target, index: int, text: str) -> str:
    """Ask a running trial to save and end; --resume goes on with it."""
    if source.entries[index].row["status"] != "running":
        raise UserError("it does not run")
    source.run_folder(index).request_stop()
    return "asked to save and end"


def go_on(source: Target, index: int, text: str) -> str:
    """Ask the search to let a waiting trial go on, before all others."""
    if not isinstance(source, SearchSource) or not source.entries[index].row["waits"]:
        raise UserError("only a trial that waits can be told to go on")
    if source.experiment.state != "running":
        raise UserError("its search does not run; resume it first")
    source.experiment.ask_to_go_on(index)
    return "asked to go on as soon as there is room"


def mark(source: Target, index: int, text: str) -> str:
    """Mark a trial, or take its mark away."""
    if text not in MARKS:
        raise UserError(f"a mark is one of {', '.join(filter(None, MARKS))}, or nothing")
    add(source, index, mark=text)
    return "marked" if text else "unmarked"


def write(source: Target, index: int, text: str) -> str:
    """Write a note."""
    if not text.strip():
        raise UserError("an empty note")
    if len(text) > MOST:
        raise UserError(f"a note has at most {MOST:,} characters")
    add(source, index, text=text)
    return "written"


def add(source: Target, index: int, **what: str) -> None:
    """A line in notes.jsonl; on an object store the file, as it is there now, is replaced. Raises UserError."""
    row, folder = {"time": round(time.time(), 3), "trial": index, **what}, source.folder
    try:
        if folder.remote is not None:
            folder.write(NOTES, folder.read(NOTES) or "")
        folder.append(NOTES, [row])
        if folder.remote is not None:
            folder.remote.upload(NOTES, folder.path / NOTES)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}") from None


ACTIONS: dict[str, Callable[[Target, int, str], str]] = {"stop": stop, "go_on": go_on, "mark": mark, "note": write}


def act(source: Target, index: int, action: str, text: str) -> str:
    """Do it; what to tell. Raises UserError where it cannot be done."""
    if action not in ACTIONS:
        raise UserError(f"no such action; one of {', '.join(ACTIONS)}")
    return ACTIONS[action](source, index, text)
