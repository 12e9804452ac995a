"""What a search's checkpoints take, before it starts."""

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from act_ray.config import Config
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.runs.storage import storage_is_local
from act_ray.train.sizes import checkpoint_bytes, checkpoints_written
from act_ray.tune.kinds import endpoints
from act_ray.tune.space import Space

MOST = 64  # combinations that are looked at


def describe_disk(space: Space, location: str) -> list[str]:
    """What the trials' checkpoints take at most, and what is free; nothing where the data is not on this machine."""
    try:
        cfg = space.example()
        data = open_data(cfg.data.path, cfg.data.decode)
        _, channels, size, _ = data.images.shape
        one = max(checkpoint_bytes(cfg, channels, size) for cfg in networks(space))
    except UserError:
        return []
    kept = space.example().checkpoint
    count = kept.keep + 1 + kept.good
    total = one * count * space.trials
    line = (
        f"disk: a checkpoint takes {in_units(one)}; {count} at most of each of {space.trials} trials (the last, the "
        f"best, and those from before a collapse): {in_units(total)}"
    )
    if not storage_is_local(location):
        sent = checkpoints_written(space.example()) * space.trials
        return [f"{line}; at most {sent:,} are uploaded: {in_units(one * sent)}"]
    there = Path(location.removeprefix("file://"))
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    short = "; THAT IS NOT ENOUGH: lower checkpoint.keep or checkpoint.good" if free < total else ""
    return [f"{line}, and {in_units(free)} are free{short}"]


def networks(space: Space) -> Iterator[Config]:
    """A config for each combination of the ends of what the networks hang on, as far as the space admits it."""
    names = [name for name in space.specs if name.startswith(("model.", "discriminator.", "loss.w"))]
    ends = itertools.product(*(dict.fromkeys(map(json.dumps, endpoints(*space.specs[name]))) for name in names))
    yield space.example()
    for values in itertools.islice(ends, MOST):
        with contextlib.suppress(UserError):
            yield space.example({name: json.loads(value) for name, value in zip(names, values, strict=True)})
