"""The errors that end a command without a traceback, and the hint at what was meant."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where, the bound and the nearest valid thing."""


class StorageError(UserError):
    """The storage is full, fails, or is away: with the same call the work goes on once it is mended."""


class Interrupted(Exception):
    """The user, or the machine, asked the command to end; the message says how to go on, `code` is the exit code."""

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


def too_many_workers(option: str, workers: int, cpus: int) -> UserError:
    """For a machine that is all there is."""
    return UserError(f"{option} {workers}: this machine has {cpus} CPUs, one per worker; at most {cpus}")


LISTED = 12  # valid names that an error message lists at most


def near(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is spelt most like `name`, if any is."""
    return next(iter(difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.5)), None)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?`, or where none is near the valid names, the first few of many."""
    names = sorted(valid)
    if close := near(name, names):
        return f"did you mean '{close}'?"
    # `lr` is not spelt like `optim.lr_g`, but it is a part of it.
    if len(parts := [n for n in names if name and name.lower() in n.lower()]) == 1:
        return f"did you mean '{parts[0]}'?"
    if parts:
        return "did you mean one of " + ", ".join(parts[:LISTED]) + "?"
    return "valid: " + ", ".join(names[:LISTED]) + (f", ... ({len(names)} in all)" if len(names) > LISTED else "")
