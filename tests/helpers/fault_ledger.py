"""What injected faults did: every test in tests/faults notes it, and a table is printed at the end of the suite."""

import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

FULL = os.environ.get("FAULTS") == "full"  # `make test-faults FAULTS=full`: all points, all tries
NOTES = Path("build/faults.jsonl")


@dataclass
class Note:
    """One fault that was injected. lost: steps that had to be done again; seconds: until the next step was done."""

    fault: str
    outcome: str
    lost: int | None = None
    seconds: float | None = None


def note(fault: str, outcome: str, lost: int | None = None, seconds: float | None = None) -> None:
    """Add a line, which other processes that run tests do as well."""
    NOTES.parent.mkdir(exist_ok=True)
    with NOTES.open("a") as file:
        file.write(json.dumps(asdict(Note(fault, outcome, lost, seconds))) + "\n")


def table() -> list[str]:
    """Markdown: a row for each fault and outcome, in the order in which they came; none without a note."""
    found: dict[tuple[str, str], list[Note]] = defaultdict(list)
    for line in NOTES.read_text().splitlines() if NOTES.exists() else ():
        one = Note(**json.loads(line))
        found[one.fault, one.outcome].append(one)
    head = ["| fault | tries | outcome | steps done again | seconds to the next step |", "|---|---|---|---|---|"]
    rows = []
    for (fault, outcome), notes in sorted(found.items()):
        lost = _spread([note.lost for note in notes if note.lost is not None], "d")
        seconds = _spread([note.seconds for note in notes if note.seconds is not None], ".1f")
        rows.append(f"| {fault} | {len(notes)} | {outcome} | {lost} | {seconds} |")
    return [*head, *rows] if rows else []


def _spread(values: list[int] | list[float], form: str) -> str:
    """The median, and the largest where it is another; empty without values."""
    if not values:
        return ""
    middle, most = (format(type(values[0])(value), form) for value in (median(values), max(values)))
    return middle if middle == most else f"{middle}, at most {most}"
