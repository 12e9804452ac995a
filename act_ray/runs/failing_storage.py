"""A storage that is full, fails, or is away while something is written: a line that says so, instead of a traceback."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from act_ray.errors import StorageError
from act_ray.files import cache_dir, in_units
from act_ray.runs.retries import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
AWAY = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV)


@contextlib.contextmanager
def told(
    what: str,
    where: Path,
    needed: Callable[[], int] = lambda: 0,
    then: str = "--resume goes on from the last whole checkpoint",
) -> Iterator[None]:
    """Raises a StorageError for an OSError of the block with one of these codes, or an object store's; others pass.

    what: was to be written, in the folder `where`. needed: the bytes that it takes; 0: next to nothing. then: what
    can be done when there is room again.
    """
    try:
        yield
    except StoreError as error:
        raise StorageError(f"{what} cannot be written to {error}; bring the storage back, and {then}") from error
    except Exception as error:
        if (code := error_number(error)) not in FULL + AWAY:
            raise
        size = f": it takes {in_units(bytes_)}" if (bytes_ := needed()) else ""
        cure = f"{_free(where)}; make room" if code in FULL else "bring the storage back"
        raise StorageError(
            f"{where}: {what} cannot be written: {os.strerror(code)}{size}; {cure}, and {then}"
        ) from error


def keeping_features() -> contextlib.AbstractContextManager[None]:
    """`told`, of what is learnt and measured of the real images, once for all runs."""
    return told("what is learnt of the images", cache_dir(), then="the same command goes on")


def error_number(error: Exception) -> int:
    """The errno of an OSError, or of what safetensors makes of one; 0 where there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else 0


def _free(where: Path) -> str:
    try:
        return f"{in_units(shutil.disk_usage(where).free)} are free there"
    except OSError:
        return "what is free there cannot be told"
