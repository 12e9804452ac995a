"""Strict JSON, the one dialect of all files that act_ray writes: what is not finite is a string, never a bare NaN.

"NaN", "Infinity" and "-Infinity" are the strings; float() reads them back, in Python and in pandas.
"""

import json
import math
from pathlib import Path
from typing import Any

from act_ray.files import replace_atomically


def plain(value: Any) -> Any:
    """The same data with floats that are not finite as strings, and tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


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
