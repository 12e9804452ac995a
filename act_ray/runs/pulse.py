"""Signs of life of a process that trains: what it says of itself. Who listens, and kills, is act_ray/ray_watch.py."""

import time

PATIENCE_S = 60.0  # without a sign of life, where train.hang_timeout says nothing
STEPS = 20  # a step hangs when it takes so many times as long as the slowest of late


class Pulse:
    """Told of every step, and of what takes long between steps: a step that does not end is a hang, a score is not."""

    def __init__(self, hang_timeout: float | None = None) -> None:
        self.timeout = hang_timeout
        self.slowest = 0.0  # step, in seconds; older ones count less and less
        self._since: float | None = None  # the last step ended; None: it does something else

    def step(self) -> None:
        """A step has ended, and the next begins."""
        now = time.monotonic()
        if self._since is not None:
            self.slowest = max(now - self._since, 0.95 * self.slowest)
        self._since = now

    def pause(self) -> None:
        """No step is going on, but what may take any time: data, a score, a checkpoint."""
        self._since = None

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which the process is taken for stopped."""
        return self.timeout or PATIENCE_S

    @property
    def hangs(self) -> bool:
        """Whether the step that is going on has taken too long."""
        since = self._since
        limit = self.timeout or max(PATIENCE_S, STEPS * self.slowest)
        return since is not None and time.monotonic() - since > limit
