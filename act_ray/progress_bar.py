"""How far a long piece of work has come: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

QUIET_S = 20.0  # between lines, where there is no terminal


class ProgressBar:
    """`with ProgressBar("preparing", 60_000, "images", say) as progress: ... progress.advance(250)`.

    total: None when nobody knows. say: takes the lines that stand in for the bar. done: what an earlier call has done.
    """

    def __init__(self, what: str, total: int | None, unit: str, say: Callable[[str], None], done: int = 0) -> None:
        self.what, self.total, self.unit, self.say, self.done = what, total, unit, say, done
        self.spoke = time.monotonic()
        self.bar = tqdm(
            desc=what, total=total, unit=f" {unit}", initial=done, disable=not sys.stderr.isatty(), leave=False,
            dynamic_ncols=True, unit_scale=unit == "bytes",
        )  # fmt: skip

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.monotonic() - self.spoke > QUIET_S:
            self.spoke = time.monotonic()
            self.say(f"{self.what}: {self.done:,}{f' of {self.total:,}' if self.total else ''} {self.unit}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.close()
