"""One writer per folder: who trains in it, or searches in it, holds its lock until the process ends."""

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path

from act_ray.errors import UserError
from act_ray.files import locked

LOCK = ".lock"


@contextlib.contextmanager
def exclusive(folder: Path, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock for the block. Raises UserError(busy) while another process holds it for over `wait_s`.

    A mounted storage without locks is used without one.
    """
    with contextlib.ExitStack() as held:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                held.enter_context(locked(folder / LOCK, wait=False))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(busy) from None
                time.sleep(0.25)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    raise
                break
        yield
