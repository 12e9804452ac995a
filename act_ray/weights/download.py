"""A file from the network: whole and with the right checksum, or not there; an interrupted one goes on."""

import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from act_ray import __version__
from act_ray.errors import UserError
from act_ray.files import in_units, locked, publish, sha256
from act_ray.progress_bar import ProgressBar
from act_ray.typed import typed
from act_ray.weight_files import WeightFile

BLOCK = 1 << 20
SILENCE_S = 30.0  # without a byte: the connection is given up


def download(weights: WeightFile, say: Callable[[str], None]) -> None:
    """Fetch to `weights.path`. Raises UserError, and then nothing is there that was not before.

    What has come of an interrupted download stays beside it, in .NAME.part, where the next call goes on.
    """
    target = weights.path
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(part, wait=False), _tidy(part):
            _require_room(weights, part)
            _fetch(weights, part, say)
            if not weights.is_right(digest := sha256(part)):
                part.unlink()
                raise UserError(
                    f"{weights.name}: {weights.url}: the file has SHA-256 {digest}, and {weights.sha256} is right "
                    f"({weights.digits}); it was thrown away"
                )
            publish(part, target)
    except BlockingIOError:
        raise UserError(f"{weights.name}: another process is fetching it to {target.parent}") from None
    except OSError as error:
        raise UserError(f"{weights.name}: {target.parent}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _tidy(part: Path) -> Iterator[None]:
    """Of a download that did not begin nothing is left."""
    try:
        yield
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def _require_room(weights: WeightFile, part: Path) -> None:
    free, need = shutil.disk_usage(part.parent).free, weights.size - part.stat().st_size
    if free < need:
        raise UserError(
            f"{weights.name}: {part.parent}: needs {in_units(need)} free, has {in_units(free)} (TORCH_HOME names "
            "another folder)"
        )


def _fetch(weights: WeightFile, part: Path, say: Callable[[str], None]) -> None:
    """Bring `part` to its whole length, from where it stands."""
    have = part.stat().st_size
    answer = _open(weights, have)
    if answer is None:  # as long as the file already, or longer: so it is it, or of something else
        if not weights.is_right(sha256(part)):
            part.write_bytes(b"")
            _fetch(weights, part, say)
        return
    with answer:
        total = _copy(weights, answer, part, say)
    have = part.stat().st_size
    if total is not None and have < total:
        raise UserError(
            f"{weights.name}: {weights.url}: the connection ended after {have:,} of {total:,} bytes; the same command "
            "goes on from there"
        )


def _open(weights: WeightFile, have: int) -> Any:
    """The server's answer, from byte `have` on; None where it has no more than that."""
    headers = {"User-Agent": f"act_ray/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(weights.url, headers=headers), timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        reason = f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        reason = f"no answer: {getattr(error, 'reason', None) or error}"
    raise UserError(
        f"{weights.name}: {weights.url}: {reason}; bring {weights.file} by hand, and run `{typed('weights')} put "
        f"{weights.file}`"
    )


def _copy(weights: WeightFile, answer: Any, part: Path, say: Callable[[str], None]) -> int | None:
    """Take in the answer; how long the file is to be, None where the server does not say."""
    have = part.stat().st_size if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # else it sends all of it
    length = answer.headers.get("Content-Length")
    total = None if length is None else have + int(length)
    with part.open("ab" if have else "wb") as file, ProgressBar(weights.name, total, "bytes", say, have) as progress:
        while block := _read(answer):
            file.write(block)
            progress.advance(len(block))
    return total


def _read(answer: Any) -> bytes:
    """The next bytes; none at the end, which a broken connection is as well: the length tells them apart."""
    try:
        block: bytes = answer.read(BLOCK)
    except (OSError, http.client.HTTPException):
        return b""
    return block
