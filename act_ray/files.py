"""Files that are whole or absent: atomic writes, checksums, locks between processes, the cache folder, URIs."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from act_ray.errors import UserError

PIECE = 1 << 24  # bytes that are read at once
EVALUATIONS = "evaluations.jsonl"  # in a run's folder, by act_ray.evaluate; training does not touch it


def cache_dir(name: str = "") -> Path:
    """A sub-folder of $ACT_RAY_CACHE (default ~/.cache/act_ray), created. Raises UserError when it cannot be."""
    folder = Path(os.environ.get("ACT_RAY_CACHE") or "~/.cache/act_ray").expanduser() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror} (ACT_RAY_CACHE names another)") from error
    return folder


def open_uri(uri: str) -> tuple[Any, str]:
    """The pyarrow file system of a URI such as s3://bucket/folder, and the folder within it. Raises UserError."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        files, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{uri}: not a usable URI: {error}") from error
    return files, root


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` against other processes; the kernel frees it with its owner, so none is ever stale.

    Raises BlockingIOError when another holds it and wait is False.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield  # closing the file releases it


def replace_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` a temporary file and publish it as `path`: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Flush a finished file, or folder of files, to the disk and rename it to `path`."""
    for target in (*temporary.rglob("*"), temporary):
        if target.is_file():
            target.chmod(0o644)  # safetensors writes files that only their owner can read
        sync(target)
    temporary.replace(path)
    sync(path.parent)


def read_text(path: Path) -> str:
    """A file of text. Raises UserError where it cannot be read, or is none."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; in large pieces, for between two of them a thread waits for the training's."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def in_units(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # which three digits round to less than 1000
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def check_weights(path: Path) -> None:
    """Refuse a .pth file that is more than tensors, before a library unpickles it. Raises UserError."""
    import torch

    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a plain file of weights ({type(error).__name__}); fetch it again") from None
