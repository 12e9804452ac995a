"""Images that stay in their shards, and are read out of them where they are asked for (data.decode = on_the_fly).

A batch is the same, bit for bit, as out of the memory map of all images; it takes processor time instead of disk.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from act_ray import jsonfile
from act_ray.data import store
from act_ray.errors import UserError
from act_ray.files import in_units, publish
from act_ray.progress_bar import ProgressBar

OPEN_SHARDS = 200  # at once; the list of row groups of one takes 1 to 1.5 MB of memory
MOST_THREADS = 8
SLOW_BYTES = 1 << 20  # pixels that have to be decompressed to get at one image, beyond which it is told of
CHECKED = "shards.json"


class Shard(NamedTuple):
    """A shard that was checked. rows: images per row group; size, mtime_ns: by which a changed file is seen."""

    path: str
    images: int
    rows: int
    size: int
    mtime_ns: int


# ---------------------------------------------------------------------------------------------- reading


class ShardImages:
    """uint8 [n, C, H, W] in shards; `images[indices]`, `images[a:b]` and `images[i]` are arrays, decoded then.

    threads: that decompress, beside the caller's; None: one per core, at most 8. Any number gives the same arrays, and
    they may be asked for from several threads at once. Indexing raises UserError for a shard that cannot be read any
    more, IndexError and TypeError as an array does.
    """

    def __init__(self, shards: Sequence[Shard], shape: tuple[int, ...], threads: int | None = None) -> None:
        self.shape, self.shards, self.numbers = shape, shards, np.arange(shape[0])
        self.starts = np.cumsum([0, *(shard.images for shard in shards)])
        self.rows = np.array([shard.rows for shard in shards])
        self.idle, self.lock = list[tuple[int, pq.ParquetFile]](), Lock()  # open shards that no thread reads now
        self.pool = ThreadPoolExecutor(threads or min(MOST_THREADS, len(os.sched_getaffinity(0))))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        if isinstance(key, tuple):
            raise TypeError("these images are indexed by their numbers alone")
        numbers = self.numbers[key]  # by a slice, an array of any integers or of booleans, checked by NumPy
        if numbers.ndim != 1:
            return self[numbers.reshape(-1)].reshape(*numbers.shape, *self.shape[1:])
        out = np.empty((len(numbers), *self.shape[1:]), dtype=np.uint8)
        shard = np.searchsorted(self.starts, numbers, side="right") - 1
        row = numbers - self.starts[shard]
        group = row // self.rows[shard]
        order = np.lexsort((group, shard))
        changes = np.flatnonzero((np.diff(shard[order]) != 0) | (np.diff(group[order]) != 0)) + 1

        def decode(places: NDArray[np.int64]) -> None:
            """Fill the places of `out` whose images are in one row group."""
            number, at = int(shard[places[0]]), int(group[places[0]])
            out[places] = self._group(number, at)[row[places] - at * self.rows[number]]

        parts = np.split(order, changes) if len(order) else []
        for _ in self.pool.map(decode, parts):  # raises what decode raised
            pass
        return out

    def _group(self, number: int, group: int) -> NDArray[np.uint8]:
        """All images of a row group."""
        shard = self.shards[number]
        try:
            with self._file(number) as file:
                column = file.read_row_group(group, columns=["image"], use_threads=False).column(0).combine_chunks()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{shard.path}: damaged since it was checked: {' '.join(str(error).split())}") from error
        width = int(np.prod(self.shape[1:]))
        if len(column) != min(shard.rows, shard.images - group * shard.rows) or column.type != pa.binary(width):
            raise UserError(f"{shard.path}: has changed since it was checked")
        pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=len(column) * width)
        return pixels.reshape(-1, *self.shape[1:])

    @contextmanager
    def _file(self, number: int) -> Iterator[pq.ParquetFile]:
        """The shard, open, for this thread alone: two that read one ParquetFile break its memory."""
        with self.lock:
            at = next((i for i, (other, _) in enumerate(self.idle) if other == number), None)
            file = None if at is None else self.idle.pop(at)[1]
        if file is None:
            # No memory map: where a file gets shorter, that would end the process.
            file = pq.ParquetFile(self.shards[number].path, memory_map=False, page_checksum_verification=True)
        yield file
        with self.lock:
            self.idle.append((number, file))
            del self.idle[:-OPEN_SHARDS]  # those that were used last are kept


# ---------------------------------------------------------------------------------------------- opening


def open_shards(
    files: Any, root: str, path: str, manifest: dict[str, Any], folder: Path, say: Callable[[str], None]
) -> tuple[ShardImages, NDArray[np.int64] | None]:
    """The images and their labels, with what was found out about the shards in `folder`; the caller holds its lock.

    The first opening on a machine reads all shards: it checks them and collects the labels. Shards on an object store
    are copied into `folder` by it. Later openings look at their sizes and times alone. Raises UserError.
    """
    local = isinstance(files, fs.LocalFileSystem)
    known = _known(folder, manifest, Path(root) if local else folder)
    if known is None:
        _check(files, root, path, manifest, folder, local, say)
        known = _known(folder, manifest, Path(root) if local else folder)
        if known is None:
            raise UserError(f"{path}: its shards change while they are read")
    slow = max(known, key=lambda shard: shard.rows)
    shape = tuple(manifest[key] for key in ("count", "channels", "height", "width"))
    if slow.rows > 1 and slow.rows * int(np.prod(shape[1:])) > SLOW_BYTES:
        say(
            f"{path}: its shards were written in groups of {slow.rows:,} images, all of which are decoded to get at "
            "one: slow; prepare it again, or leave data.decode=ahead"
        )
    labels = np.load(folder / "labels.npy", allow_pickle=False) if store.num_classes(manifest) else None
    return ShardImages(known, shape), labels


def _known(folder: Path, manifest: dict[str, Any], at: Path) -> list[Shard] | None:
    """The shards as they were checked, or None when they were not, or when a file has changed."""
    try:
        shards = [Shard(*entry) for entry in jsonfile.parse((folder / CHECKED).read_bytes())]
        same = all(_stat(shard.path) == (shard.size, shard.mtime_ns) for shard in shards)
    except (OSError, ValueError, TypeError):
        return None
    wanted = [(str(at / shard["file"]), shard["count"]) for shard in manifest["shards"]]
    return shards if same and [(shard.path, shard.images) for shard in shards] == wanted else None


def _stat(path: str | Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _check(
    files: Any, root: str, path: str, manifest: dict[str, Any], folder: Path, local: bool, say: Callable[[str], None]
) -> None:
    """Write `folder` aside and rename it."""
    total, decoded = sum(shard["bytes"] for shard in manifest["shards"]), store.decoded_bytes(manifest)
    what = "checking" if local else "copying"
    say(
        f"{path}: {what} {in_units(total)} of shards{'' if local else f' to {folder}'}, once on this machine; they are "
        f"read on the fly, without the {in_units(decoded)} that data.decode=ahead would write"
    )
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir()
    labels, checked = list[NDArray[np.int64]](), list[Shard]()
    try:
        if not local:
            store.free_space(temporary, total)
        with ProgressBar(what, manifest["count"], "images", say) as progress:
            for shard in manifest["shards"]:
                at = Path(root, shard["file"]) if local else temporary / shard["file"]
                before = _stat(at) if local and at.exists() else None
                if local:
                    store.check_shard(files, root, path, shard)
                else:
                    store.copy_shard(files, root, path, shard, at)
                part = store.read_shard(at, f"{path}/{shard['file']}", manifest, shard, None)
                labels += [] if part is None else [part]
                name = at if local else folder / shard["file"]
                checked.append(Shard(str(name), shard["count"], _group_rows(at, path), *(before or _stat(at))))
                progress.advance(shard["count"])
        if labels:
            np.save(temporary / "labels.npy", np.concatenate(labels), allow_pickle=False)
        jsonfile.write(temporary / CHECKED, checked)
        shutil.rmtree(folder, ignore_errors=True)  # of shards that lay elsewhere, or have changed
        publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _group_rows(at: Path, path: str) -> int:
    """Images per row group: the same in all but the last. Raises UserError where it is not."""
    with pq.ParquetFile(at) as file:
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    if any(count != rows[0] for count in rows[:-1]) or rows[-1] > rows[0]:
        raise UserError(f"{path}/{at.name}: its row groups differ in size; use data.decode=ahead")
    return int(rows[0])
