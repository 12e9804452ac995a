"""The error that ends a command without a traceback, and the hint at what was meant."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where, the bound and the nearest valid thing."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of valid names when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "valid: " + ", ".join(names)
