"""Logs of rows: one line of strict JSON each, appended; the torn last line of a killed writer is cut off.

A line that is no row of its file (torn, of other types, not even text) is left out, and costs no other. Each row ends
with `crc`, the CRC-32 of the bytes before it, by which a digit that has become another one is found; a line without it,
as 0.1.0 wrote them, is taken as it is.
"""

import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from act_ray import jsonfile

Row = dict[str, Any]
TEXTS = ("metric", "weights")  # of scores.jsonl; all else in it, and in metrics.jsonl, is numbers
SEAL = b', "crc": "00000000"}'
MOST = 1 << 53  # of a whole number, which a float still tells from the next


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a .jsonl file; a value that is not finite is written as a string ("NaN")."""
    with path.open("ab+") as file:
        _drop_torn_line(file)
        file.write(rows_text(rows).encode())


def rows_text(rows: Iterable[Row]) -> str:
    """The text of a .jsonl file with these rows."""
    return "".join(_sealed(jsonfile.line(row)) + "\n" for row in rows)


def _sealed(line: str) -> str:
    body = line[:-1]
    return line if body == "{" else f'{body}, "crc": "{zlib.crc32(body.encode()):08x}"}}'


def _unsealed(line: bytes) -> bytes:
    """A line without its `crc`. Raises ValueError where that is of something else."""
    body, seal = line[: -len(SEAL)], line[-len(SEAL) :]
    if seal[:10] != SEAL[:10]:
        return line
    if seal != b', "crc": "%08x"}' % zlib.crc32(body):
        raise ValueError("not what was written")
    return body + b"}"


def read_rows(path: Path) -> tuple[list[Row], int]:
    """`parse_rows` of a .jsonl file, without the torn last line of a killed writer; none where there is no file."""
    return parse_rows(path.read_bytes(), path.name) if path.exists() else ([], 0)


def parse_rows(text: bytes, name: str) -> tuple[list[Row], int]:
    """The whole rows of a .jsonl file's text, and how many of its lines are none and left out; `name`: the file's."""
    rows, bad, fits = list[Row](), 0, FITS.get(name)
    for line in text.split(b"\n")[:-1]:  # what follows the last newline is still being written
        try:
            row = jsonfile.parse(_unsealed(line))  # ValueError: no JSON, or no UTF-8
        except ValueError:
            row = None
        if isinstance(row, dict) and (fits is None or fits(row)):
            rows.append(row)
        else:
            bad += 1
    return rows, bad


def sound_lines(text: bytes) -> bytes:
    """The whole lines of a .jsonl file's text, less those whose `crc` is of something else."""
    return b"".join(line + b"\n" for line in text.split(b"\n")[:-1] if _sound(line))


def _sound(line: bytes) -> bool:
    try:
        return bool(_unsealed(line))
    except ValueError:
        return False


def whole(value: Any) -> bool:
    """Whether a value is a whole number that can count something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def number(value: Any) -> bool:
    """Whether a value is a number, finite or not, or None."""
    if isinstance(value, int | float):
        return not isinstance(value, bool) and (isinstance(value, float) or abs(value) < MOST)
    return value is None or value in ("NaN", "Infinity", "-Infinity")


def _measured(row: Row) -> bool:
    texts = all(isinstance(row[name], str) for name in TEXTS if name in row)
    return whole(row.get("step")) and texts and all(number(row[name]) for name in row if name not in TEXTS)


def _event(row: Row) -> bool:
    steps = all(whole(row[name]) for name in ("step", "trial") if name in row)
    return isinstance(row.get("event"), str) and isinstance(row.get("time", 0), int | float) and steps


def _note(row: Row) -> bool:
    return whole(row.get("trial", 0)) and all(isinstance(row.get(name, ""), str) for name in ("mark", "text"))


FITS: dict[str, Callable[[Row], bool]] = {  # whether a row is one of its file's
    "metrics.jsonl": _measured,
    "scores.jsonl": _measured,
    "events.jsonl": _event,
    "evaluations.jsonl": lambda row: row.get("step") is None or whole(row["step"]),
    "notes.jsonl": _note,
}


class Tail:
    """What is appended to a .jsonl file, as it comes; a line that is no row is counted in `bad` and left out.

    start: where to begin, in bytes. A file that became shorter, as a resumed run's do, is read on from its new end, or
    with `again` from its beginning: `restarted` then says so.
    """

    def __init__(self, path: Path, start: int = 0, again: bool = False) -> None:
        self.path, self.offset, self.again = path, start, again
        self.bad, self.restarted = 0, False

    def text(self, most: int | None = None) -> bytes:
        """The whole lines that were appended since the last look; of more than `most` bytes the first ones."""
        size, self.restarted = file_size(self.path), False
        if size < self.offset:
            self.restarted, self.offset = self.again, 0 if self.again else size
        if size <= self.offset:
            return b""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            new = file.read(min(size - self.offset, most or size))
            if b"\n" not in new:
                new += file.read(size - self.offset - len(new))
        whole = new[: new.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole

    def rows(self) -> list[Row]:
        """Their rows."""
        found, bad = parse_rows(self.text(), self.path.name)
        self.bad += bad
        return found


def file_size(path: Path) -> int:
    """In bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut off what a killed writer left of its last line; `file` is open for appending."""
    if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
