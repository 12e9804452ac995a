"""Real training steps of candidate networks, one after the other in one process, which may run out of memory.

`python -m act_ray.init.candidates REQUEST`: a list of settings as JSON, a line of JSON on stdout for each.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from act_ray import jsonfile, settings
from act_ray.config import Config
from act_ray.doctor.watch import child
from act_ray.progress_bar import ProgressBar


@dataclass(frozen=True)
class Speed:
    """seconds: of a step. memory: the process's peak in bytes, or the GPU's where there is one."""

    seconds: float
    memory: int


def measure_all(
    candidates: Sequence[Config], gpu: bool | None, say: Callable[[str], None], enough: Callable[[Speed], bool]
) -> list[Speed]:
    """The speeds of candidates, the smallest first, up to the first for which it is `enough`, or which does not fit."""
    request = json.dumps({"candidates": [cfg.model_dump(mode="json") for cfg in candidates], "gpu": gpu})
    found = list[Speed]()
    with (
        child("-m", "act_ray.init.candidates", request) as process,
        ProgressBar("measuring networks", len(candidates), "networks", say) as progress,
    ):
        for line in process.lines:
            found.append(Speed(**json.loads(line)))
            progress.advance(1)
            if enough(found[-1]):
                return found
        if what := process.failure():
            raise RuntimeError(f"measuring networks {what}")
    return found


class Measured:
    """Speeds that are measured once: a file keeps them, for a call that is interrupted or refused and given again."""

    def __init__(self, file: Path, machine: object, say: Callable[[str], None]) -> None:
        """machine: what they were measured on."""
        self.file, self.machine, self.say = file, machine, say
        try:
            self.known = jsonfile.read(file, dict[str, Speed])
        except (OSError, ValueError):
            self.known = {}

    def __call__(self, candidates: Sequence[Config], gpu: bool | None, enough: Callable[[Speed], bool]) -> list[Speed]:
        """As `measure_all`, but for those that are known."""
        found = list[Speed]()
        keys = [self._key(cfg, gpu) for cfg in candidates]
        while len(found) < len(keys) and keys[len(found)] in self.known:
            found.append(self.known[keys[len(found)]])
            if enough(found[-1]):
                return found
        if len(found) == len(keys):
            return found
        left = iter(keys[len(found) :])

        def noted(speed: Speed) -> bool:
            self.known[next(left)] = speed
            jsonfile.write(self.file, {key: asdict(value) for key, value in self.known.items()})
            return enough(speed)

        return found + measure_all(candidates[len(found) :], gpu, self.say, noted)

    def _key(self, cfg: Config, gpu: bool | None) -> str:
        about = [cfg.model_dump(mode="json"), gpu, repr(self.machine)]
        return hashlib.sha256(jsonfile.line(about).encode()).hexdigest()[:16]


def main() -> None:
    """Measure until one does not fit."""
    from act_ray.data.shards import open_data
    from act_ray.doctor.inside import die_first
    from act_ray.doctor.measure import OutOfMemory, measure

    request = json.loads(sys.argv[1])
    die_first()
    for values in request["candidates"]:
        cfg = settings.build(values)
        try:
            found = measure(cfg, open_data(cfg.data.path, cfg.data.decode), 0, request["gpu"])
        except OutOfMemory:
            break
        speed = Speed(found.seconds, found.memory if found.gpu is None else found.gpu)
        print(json.dumps(asdict(speed)), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
