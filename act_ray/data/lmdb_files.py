"""LMDB as LSUN publishes its categories: a value per image, an encoded file; the keys mean nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from act_ray.data.records import Record, Source
from act_ray.errors import UserError

DATA = "data.mdb"


def find_lmdb_source(folder: Path) -> Source | None:
    """A folder with data.mdb, or with some such folders in it; None for another."""
    folders = [folder] if (folder / DATA).is_file() else sorted(file.parent for file in folder.glob(f"*/{DATA}"))
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


def read_lmdb(root: Path, folders: Sequence[Path]) -> Iterator[Record]:
    """Yield the images in the order of their keys; named by the folder below `root`, if any, and the key."""
    for folder in folders:
        with _opened(folder) as environment, environment.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                name = f"{folder.name}/" if folder != root else ""
                yield Record(name + bytes(key).decode("utf-8", "backslashreplace"), bytes(value), None)


def _count(folder: Path) -> int:
    with _opened(folder) as environment:
        return int(environment.stat()["entries"])


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """Read without its lock file, which a folder that is not ours may not let us write."""
    import lmdb

    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False) as environment:
            # A file that was cut short is a memory map that ends the process (SIGBUS) where it is read past its end.
            needed, there = environment.info()["last_pgno"] + 1, (folder / DATA).stat().st_size
            if needed * environment.stat()["psize"] > there:
                raise lmdb.CorruptedError(f"cut short at {there:,} bytes")
            yield environment
    except lmdb.Error as error:
        raise UserError(f"{folder / DATA}: damaged, or not what its name says: {error}") from error
