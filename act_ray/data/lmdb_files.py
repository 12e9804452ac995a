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
    count = sum(_count(path) for path in folders)
    return Source("LSUN LMDB", folder, lambda: read_lmdb(folder, folders), count=count)


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
            yield environment
    except lmdb.Error as error:
        raise UserError(f"{folder / DATA}: damaged, or not what its name says: {error}") from error
