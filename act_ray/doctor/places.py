"""What lies on disks: the data and its decoded copy, checkpoints to come, the storage, the weights that are there."""

import math
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from act_ray.config import Config
from act_ray.data import store
from act_ray.data.shards import read_manifest
from act_ray.doctor.rows import Row, State
from act_ray.errors import UserError
from act_ray.files import cache_dir, in_units, sha256
from act_ray.metrics.scores import inception_file
from act_ray.runs.storage import ObjectStore, join, storage_is_local
from act_ray.weight_files import INCEPTION, LPIPS, VGG16, WeightFile

ANSWER_S = 15.0  # within which an object store must have answered
CONTENT = b"act_ray"  # of the file that is written to try the storage
Shape = tuple[int, ...]
TOO_LARGE = "--set data.decode=on_the_fly, or another folder by ACT_RAY_CACHE"


def weights_that_are_there(cfg: Config) -> Iterator[Row]:
    """A row for each of our weights that the settings use and that is there: whether it is the published one."""
    for weights, path in used_weights(cfg):
        if not path.is_file():
            continue
        if weights.is_right(sha256(path)):
            yield Row("weights", f"{weights.name}: {path}; {weights.digits}: right")
        else:
            yield Row("weights", f"{weights.name}: {path} is not the published file", State.WARNING, "bring it again")


def used_weights(cfg: Config) -> Iterator[tuple[WeightFile, Path]]:
    """What the settings use of weights whose checksum is known, and where they look for it."""
    if cfg.eval.features == "inception":
        yield INCEPTION, inception_file(cfg.eval)
    if cfg.loss.distance == "lpips" and cfg.consistent:
        for weights in (LPIPS, VGG16):
            hub = cfg.loss.lpips_weights
            yield weights, weights.path if hub is None else Path(hub) / "checkpoints" / weights.file


# ---------------------------------------------------------------------------------------------- storage


def storage(location: str) -> Row:
    """Whether a file can be written to the storage, read again and removed."""
    found = list[Row]()
    asking = threading.Thread(target=lambda: found.append(_try(location)), daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return found[0] if found else Row("storage", f"{location}: no answer in {ANSWER_S:g} s", State.MISSING, "--storage")


def _try(location: str) -> Row:
    name = f".act_ray_doctor_{uuid.uuid4().hex}"
    try:
        if storage_is_local(location):
            file = nearest_folder(Path(location.removeprefix("file://")).absolute()) / name
            file.write_bytes(CONTENT)
            right = file.read_bytes() == CONTENT
            file.unlink()
        else:
            remote = ObjectStore(location, patience_s=0)
            remote.write(name, CONTENT)
            right = remote.read(name) == CONTENT
            remote.delete_file(name)
    except (OSError, UserError) as error:
        why = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        return Row("storage", f"{location}: cannot be written: {why}", State.MISSING, "another --storage")
    if not right:
        return Row("storage", f"{location}: what was written is not what is read", State.MISSING, "another --storage")
    return Row("storage", f"{location}: a file was written, read and removed")


def nearest_folder(path: Path) -> Path:
    """The folder, or the nearest one above it that is there; a file in its place stays: nothing can be made in it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


# ---------------------------------------------------------------------------------------------- disk


def disk(one: int, kept: int, trials: int, location: str) -> Row:
    """What the checkpoints take against what is free. one: bytes of a checkpoint; kept: how many of a run."""
    total = one * kept * trials
    line = f"{kept} checkpoints of {in_units(one)}" + (f" for each of {trials} trials" if trials > 1 else "")
    line += f": {in_units(total)} at most"
    if not storage_is_local(location):
        return Row("disk", f"{line}, in {join(location)}")
    free = shutil.disk_usage(nearest_folder(Path(location.removeprefix("file://")).absolute())).free
    line += f"; {in_units(free)} free"
    if free < total:
        return Row("disk", line, State.MISSING, "lower checkpoint.keep or checkpoint.good, or another --storage")
    return Row("disk", line, State.WARNING, "nearly full") if free < 1.2 * total else Row("disk", line)


def undecoded(path: str) -> tuple[Shape, int] | None:
    """[n, C, H, W] and the classes of data that this node has not decoded yet, from its manifest.

    None where it has, and where the manifest cannot be read: open_data says why.
    """
    try:
        manifest = read_manifest(path)
        if (cache_dir() / manifest["checksum"]).is_dir():
            return None
    except UserError:
        return None
    n, channels, height, width = (int(manifest[key]) for key in ("count", "channels", "height", "width"))
    return (n, channels, height, width), store.num_classes(manifest)


def decoding(about: str, shape: Shape) -> Row:
    """What the memory map of such data will take, against what is free."""
    folder, size = cache_dir(), math.prod(shape)
    free = shutil.disk_usage(folder).free
    line = f"{about}; the first start decodes {in_units(size)} to {folder}, where {in_units(free)} are free"
    return Row("data", line) if size < free else Row("data", line, State.MISSING, TOO_LARGE)
