"""LMDB as LSUN publishes its categories: a value per image, an encoded file; the keys mean nothing."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from act_ray.data import lmdb_child
from act_ray.data.decoding import MAX_BYTES, BadImage
from act_ray.data.lmdb_child import COUNT, DATA, LENGTHS
from act_ray.data.records import Record, Source
from act_ray.errors import UserError


def find_lmdb_source(folder: Path) -> Source | None:
    """A folder with data.mdb, or with some such folders in it; None for another."""
    folders = [folder] if (folder / DATA).is_file() else _below(folder)
    if not folders:
        return None
    parts = {part for path in folders for part in ("train", "val", "test") if part in path.name.split("_")}
    if len(parts) > 1:
        raise UserError(
            f"{folder}: {', '.join(path.name for path in folders)} are parts of one data set; give one folder"
        )
    several = f"{folder}: {len(folders)} categories without labels; prepare them apart to keep them apart"
    count = sum(_count(path) for path in folders)
    return Source(
        "LSUN LMDB", folder, lambda: read_lmdb(folder, folders), None, count, several if len(folders) > 1 else None
    )


def _below(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/{DATA}") if file.is_file())


def read_lmdb(root: Path, folders: Sequence[Path]) -> Iterator[Record]:
    """Yield the images in the order of their keys; named by the folder below `root`, if any, and the key."""
    for folder in folders:
        prefix = f"{folder.name}/" if folder != root else ""
        with closing(_Child(folder)) as child:
            child.read(COUNT.size)
            while head := child.read(LENGTHS.size):
                key_bytes, value_bytes = LENGTHS.unpack(head)
                name = prefix + child.read(key_bytes).decode("utf-8", "backslashreplace")
                over = value_bytes > MAX_BYTES
                raw = BadImage(f"over the cap of {MAX_BYTES} encoded bytes") if over else child.read(value_bytes)
                yield Record(name, raw, None)


def _count(folder: Path) -> int:
    with closing(_Child(folder)) as child:
        return int(COUNT.unpack(child.read(COUNT.size))[0])


class _Child:
    """The process that reads one folder, lmdb_child.py, until close()."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        args = [sys.executable, "-P", lmdb_child.__file__, str(folder), str(MAX_BYTES)]
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read(self, count: int) -> bytes:
        """The next `count` bytes, or b"" at the proper end; raises UserError when the process ends before."""
        assert self.process.stdout is not None
        content = self.process.stdout.read(count)
        if len(content) < count and (content or self.process.wait()):
            raise UserError(f"{self.folder / DATA}: damaged, or not what its name says: {self._reason()}")
        return content

    def _reason(self) -> str:
        assert self.process.stderr is not None
        code, lines = self.process.wait(), self.process.stderr.read().decode(errors="replace").splitlines()
        if code < 0:
            return f"reading it ended with {signal.Signals(-code).name}"
        return lines[-1] if lines else "it ends within an entry"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
