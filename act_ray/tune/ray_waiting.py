"""What trials without a place wait for: a line for each change, and an end where no node can ever give it."""

import time

from ray.exceptions import RpcError

from act_ray.ray_autoscaler import Growth, Resources, growth, holds, largest
from act_ray.tune.ray_placement import Placement

LOOK_S = 1.0
SURE_S = 1.5  # a trial that finds a place at once waits for a moment, too
ANSWER_S = 10.0  # within which an autoscaler that can has asked for a node
NEVER_S = 20.0  # without a node, and without the hope of one


class Waiting:
    """Told by `look`, as often as one likes. never: why the search cannot go on."""

    def __init__(self, place: Placement) -> None:
        self.place, self.full = place, largest()
        self.looked = 0.0
        self.since: float | None = None  # trials have waited without a break
        self.stuck: float | None = None  # and no node is there, and none is coming
        self.said = ""
        self.never: str | None = None

    def look(self) -> str | None:
        """The line, where there is something new to say."""
        moment = time.monotonic()
        if moment - self.looked < LOOK_S:
            return None
        self.looked = moment
        try:
            now = growth()
        except RpcError:  # Ray is slow, or lost, which others tell
            return None
        count = sum(self._ours(gang) for gang in now.waiting)
        if count == 0:
            self.since = self.stuck = None
            self.said = ""
            return None
        self.since = moment if self.since is None else self.since
        line = self._line(count, now, moment - self.since)
        if self._is_stuck(now):
            self.stuck = moment if self.stuck is None else self.stuck
            if moment - self.stuck > NEVER_S:
                self.never = f"a trial needs {self.place.takes}, and the autoscaler has no nodes that give it"
                self.never += "; try --cpu" if self.place.gpu else "; try fewer --workers-per-trial"
        else:
            self.stuck = None
        if line is None or line == self.said or moment - self.since < SURE_S:
            return None
        self.said = line
        return line

    def _ours(self, gang: tuple[Resources, ...]) -> bool:
        return len(gang) == self.place.need and all(bundle == self.place.bundle for bundle in gang)

    def _is_stuck(self, now: Growth) -> bool:
        """Whether a trial wants what no node gives: a full cluster's autoscaler starts none either."""
        return now.up + now.coming == 0 and not now.failed and any(self._ours(gang) for gang in now.refused)

    def _line(self, count: int, now: Growth, seconds: float) -> str | None:
        """None while the autoscaler has not answered, and where there is room that Ray has still to give it."""
        if sum(holds(free, self.place.bundle) for free in now.free) >= self.place.need:
            return None
        takes = self.place.takes
        who = f"{count} trials wait for {takes} each" if count > 1 else f"1 trial waits for {takes}"
        if not self.place.grows:
            return f"{who}: something else has what is there" if seconds > ANSWER_S else None
        up = f"{now.up} of {self.full.nodes} nodes" if self.full else "1 node" if now.up == 1 else f"{now.up} nodes"
        coming = min(now.coming, self.full.nodes - now.up) if self.full else now.coming  # one that is up may be in both
        if coming:
            return f"{who}: {up} up, the autoscaler has asked for {coming}"
        if now.failed:
            return f"{who}: {up} up, and the last that the autoscaler asked for failed: {now.failed}"
        return f"{who}: {up} up, and the autoscaler asks for none" if seconds > ANSWER_S else None
