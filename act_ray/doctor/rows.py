"""What the doctor says: a row for each thing that a run needs, and how they end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from act_ray.weight_files import WEIGHT_FILES, how_to_get


class State(StrEnum):
    """How it stands with a thing. MISSING: a run would fail."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


COLOURS = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "red"}
WIDTH = 100  # columns, where there is no terminal to ask, or a narrower one


@dataclass(frozen=True)
class Row:
    """what: the thing in a word. found: how it is. todo: what to do, where there is something."""

    what: str
    found: str
    state: State = State.OK
    todo: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", State(self.state))  # a plain word, where it was read from JSON


def row_of(what: str, message: str) -> Row:
    """A row of a UserError's message: what is wrong, and behind the first semicolon what to do."""
    found, _, todo = message.partition("; ")
    return Row(what, found, State.MISSING, todo)


def show(rows: Iterable[Row]) -> None:
    """The table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=5)
    table.add_column("", no_wrap=True, min_width=7)
    table.add_column("what to do", overflow="fold", ratio=4)
    for row in rows:
        table.add_row(row.what, Text(row.found), Text(row.state, COLOURS[row.state]), Text(row.todo))
    Console(width=max(WIDTH, Console().width), highlight=False).print(table)


def conclude(name: str, rows: Sequence[Row]) -> tuple[str, int]:
    """The last line, and the exit code: 1 where something is missing."""
    missing, warnings = ([row.what for row in rows if row.state is s] for s in (State.MISSING, State.WARNING))
    count = f"; {len(warnings)} warning(s)" if warnings else ""
    if missing:
        return f"{name}: missing: {', '.join(dict.fromkeys(missing))}{count}", 1
    return f"{name}: nothing is missing{count}", 0


def weights_to_get(rows: Iterable[Row]) -> str | None:
    """The one command that fetches all weights that are missing; None where none is."""
    text = " ".join(f"{row.found} {row.todo}" for row in rows if row.state is State.MISSING)
    files = [weights for weights in WEIGHT_FILES if weights.file in text or f"get {weights.name}" in text]
    return f"the weights at once: {how_to_get(*files)}" if files else None
