"""progress.json: the step, speed and losses of a run, for other processes to read."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from act_ray import jsonfile

FILE = "progress.json"
STALE_S = 120.0  # without news from what says that it runs


@dataclass(frozen=True)
class Progress:
    """After `step` steps: the speed since the last time, the last score, and the last values of the losses."""

    step: int
    total_steps: int
    steps_per_second: float
    images_per_second: float
    score: float | None = None
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """At this speed, to the end."""
        return (self.total_steps - self.step) / max(self.steps_per_second, 1e-9)

    def write(self, folder: Path) -> None:
        """Replace the folder's progress.json."""
        values = asdict(self)
        losses = values.pop("losses")
        jsonfile.write(folder / FILE, values | losses)


def read_progress(folder: Path) -> Progress | None:
    """The folder's progress; None where there is none yet, or none that can be read."""
    try:
        return jsonfile.read(folder / FILE, Progress)
    except (OSError, ValueError):
        return None


def format_seconds(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def has_news(folder: Path) -> bool:
    """Whether a run has written down its progress lately: one that was killed, or hangs, has not."""
    try:
        return abs(time.time() - (folder / FILE).stat().st_mtime) <= STALE_S  # in the future: the clock was set back
    except OSError:
        return False
