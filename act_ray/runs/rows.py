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
        file.write("".join(jsonfile.line(row) + "\n" for row in rows).encode())


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a .jsonl file, without the torn last line of a killed writer; none where there is no file."""
    return parse_rows(path.read_text()) if path.exists() else []


def parse_rows(text: str) -> list[Row]:
    """The whole rows of a .jsonl file's text, up to the first that is none."""
    rows = []
    for line in text.split("\n")[:-1]:  # what follows the last newline is still being written
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut off what a killed writer left of its last line; `file` is open for appending."""
    if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
