"""Logs of rows: one line of strict JSON each, appended; the torn last line of a killed writer is cut off."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from act_ray import jsonfile

Row = dict[str, Any]


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a .jsonl file; a value that is not finite is written as a string ("NaN")."""
    with path.open("ab+") as file:
        _drop_torn_line(file)
        file.write(rows_text(rows).encode())


def rows_text(rows: Iterable[Row]) -> str:
    """The text of a .jsonl file with these rows."""
    return "".join(jsonfile.line(row) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a .jsonl file, without the torn last line of a killed writer; none where there is no file."""
    return parse_rows(path.read_bytes())[0] if path.exists() else []


def parse_rows(text: bytes) -> tuple[list[Row], int]:
    """The whole rows of a .jsonl file's text, and how many of its lines are none and left out."""
    rows, bad = list[Row](), 0
    for line in text.split(b"\n")[:-1]:  # what follows the last newline is still being written
        try:
            row = json.loads(line)  # ValueError: no JSON, or no UTF-8
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    return rows, bad


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
        found, bad = parse_rows(self.text())
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
