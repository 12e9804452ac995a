"""Files that are whole or absent: atomic writes, checksums, locks between processes, and the cache folder."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from act_ray.errors import UserError


def cache_dir(name: str) -> Path:
    """A sub-folder of $ACT_RAY_CACHE (default ~/.cache/act_ray), created."""
    root = Path(os.environ.get("ACT_RAY_CACHE") or Path.home() / ".cache" / "act_ray")
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`; the system frees it when its owner dies."""
    with FileLock(f"{path}.lock"):
        yield


def replace_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` a temporary file beside `path`, flush it to the disk, and put it in place in one rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no NaN), atomically."""
    text = json.dumps(value, indent=1, allow_nan=False)
    replace_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(path: Path) -> None:
    """Refuse a .pth file that is more than tensors, before a library unpickles it. Raises UserError."""
    import torch

    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a plain file of weights ({type(error).__name__}); fetch it again") from None
