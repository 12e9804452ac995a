"""Strict JSON, the one dialect of all files that act_ray writes: what is not finite is a string, never a bare NaN.

"NaN", "Infinity" and "-Infinity" are the strings; float() reads them back, in Python and in pandas.
"""

import functools
import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from act_ray.files import replace_atomically

T = TypeVar("T")


def plain(value: Any) -> Any:
    """The same data with floats that are not finite as strings, and tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def parse(text: str | bytes) -> Any:
    """JSON that somebody wrote. Raises ValueError for what is none, is nested too deeply, or holds half a character."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if (b"\\ud" if isinstance(text, bytes) else "\\ud") in text.lower():  # type: ignore[operator]
        json.dumps(found, ensure_ascii=False).encode()  # UnicodeEncodeError: it could be neither printed nor written
    return found


def read(path: Path, kind: type[T]) -> T:
    """A whole file as a `kind`: a dataclass, a list of them, a dict, ... Raises ValueError, or OSError as files do."""
    return checked(parse(path.read_bytes()), kind)


def checked(value: Any, kind: type[T]) -> T:
    """Plain data as a `kind`. Raises ValueError, in one line, for what is none."""
    try:
        found: T = _adapter(cast(Hashable, kind)).validate_python(value)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


@functools.cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    found: TypeAdapter[Any] = TypeAdapter(cast(Any, kind))
    return found


def line(value: Any) -> str:
    """One line of strict JSON, without its end."""
    return json.dumps(plain(value), allow_nan=False)


def text(value: Any) -> str:
    """A whole file of strict JSON, for people to read as well."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def write(path: Path, value: Any) -> None:
    """A whole file of strict JSON, atomically."""
    content = text(value)
    replace_atomically(path, lambda temporary: temporary.write_text(content))
