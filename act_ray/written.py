"""Files of the cache as they were written: noted with their SHA-256, so that a damaged one is made again."""

from dataclasses import asdict, dataclass
from pathlib import Path

from act_ray import jsonfile
from act_ray.files import sha256

CHECKED_BYTES = 1 << 30  # of a file, beyond which its content is not read at each opening: about a second


@dataclass(frozen=True)
class Written:
    """A file as it was written."""

    name: str
    bytes: int
    mtime_ns: int
    sha256: str


def written(path: Path) -> Written:
    """The file as it is now."""
    stat = path.stat()
    return Written(path.name, stat.st_size, stat.st_mtime_ns, sha256(path))


def unchanged(path: Path, before: Written) -> bool:
    """By its size and time where it is large, or else by its content. Raises OSError where it is gone."""
    stat = path.stat()
    if stat.st_size > CHECKED_BYTES and stat.st_mtime_ns == before.mtime_ns:
        return stat.st_size == before.bytes
    return stat.st_size == before.bytes and sha256(path) == before.sha256


def seal(path: Path) -> None:
    """Note a file that was just written, beside it."""
    jsonfile.write(_note(path), asdict(written(path)))


def sealed(path: Path) -> bool:
    """Whether a file is there as `seal` noted it. One without a note, as 0.1.0 left it, is noted as it is."""
    try:
        if path.exists() and not _note(path).exists():
            seal(path)
        return unchanged(path, jsonfile.read(_note(path), Written))
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """A file and its note."""
    for one in (path, _note(path)):
        one.unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.written.json")
