"""Calls of an object store: one that fails for a moment is made again, one that stays away is told in a line."""

import functools
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from act_ray.errors import StorageError

Method = TypeVar("Method", bound=Callable[..., Any])

PATIENCE_S = 60.0  # for so long a call is made again
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0
pause = time.sleep

# What does not pass by itself: AWS's names as pyarrow writes them, its answers to HEAD, which have no name, Google's.
LASTING = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|"
    r"UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|HTTP status 40[0134]\b|PERMISSION_DENIED|UNAUTHENTICATED"
)


class StoreError(StorageError, OSError):
    """An object store that is away, or refuses. It is an OSError too, and so is met wherever a file's is."""


def retried(method: Method) -> Method:
    """An ObjectStore's method, called again for up to its `patience_s` while the store fails.

    Raises StoreError for what stays so. What a file system says of a file (not found, no room) passes: it has a number,
    and what a store or the way there says has none.
    """

    @functools.wraps(method)
    def call(store: Any, *args: Any, **options: Any) -> Any:
        end, wait = time.monotonic() + store.patience_s, FIRST_WAIT_S
        while True:
            try:
                return method(store, *args, **options)
            except OSError as error:
                if isinstance(error, StoreError) or not _of_the_store(error):
                    raise
                said = _line(error)
                if LASTING.search(said):
                    raise StoreError(f"{store.uri}: {said}") from error
                if time.monotonic() + wait > end:
                    tried = f"failed for {store.patience_s:g} s: " if store.patience_s else ""
                    raise StoreError(f"{store.uri}: {tried}{said}") from error
            pause(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    return call  # type: ignore[return-value]


def _of_the_store(error: OSError) -> bool:
    return error.errno is None or isinstance(error, ConnectionError | TimeoutError)


def _line(error: OSError) -> str:
    """What it says, without the request's number."""
    return re.sub(r" \(Request ID[^)]*\)", "", " ".join(str(error).split()))[:400]
