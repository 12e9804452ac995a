"""open_data: a name, folder or URI to images: decoded once per node to a memory map, or where they are asked for."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from act_ray import jsonfile
from act_ray.data import formats, store
from act_ray.data.on_the_fly import ShardImages, open_shards
from act_ray.errors import UserError, near
from act_ray.files import cache_dir, in_units, locked, open_uri, publish
from act_ray.progress_bar import ProgressBar
from act_ray.typed import typed
from act_ray.written import Written, unchanged, written

Decode = Literal["ahead", "on_the_fly"]
Say = Callable[[str], None]
WRITTEN = "written.json"


@dataclass(frozen=True)
class ImageData:
    """A data set ready for gathering batches: `images[indices]`.

    images: uint8 [n, C, H, W], a read-only np.memmap (an array for "digits"), or ShardImages, which decodes what is
    asked for. labels: int64 [n], or None. num_classes: 0 when unlabelled. checksum: hex SHA-256 of the content. name:
    for people.
    """

    images: NDArray[np.uint8] | ShardImages
    labels: NDArray[np.int64] | None
    num_classes: int
    checksum: str
    name: str


def open_data(path: str, decode: Decode = "ahead", say: Say = lambda line: None) -> ImageData:
    """Open a prepared data set: "digits" (built in, 8x8 greyscale), a folder, or a URI such as s3://bucket/folder.

    decode: ahead, the first opening on a node verifies every shard and decodes it to $ACT_RAY_CACHE (default
    ~/.cache/act_ray), and later ones only map that; on_the_fly, it verifies them, and images are decoded where they are
    asked for, unless they were decoded ahead before. say: hears of what takes long and how much disk it takes, before
    it begins. Raises UserError for a wrong path, something else than prepared data, or a damaged shard.
    """
    if path == "digits":
        return _digits()
    files, root = _filesystem(path)
    manifest = _read_manifest(files, root, path)
    folder = cache_dir() / manifest["checksum"]
    name = root.rstrip("/").rpartition("/")[2]
    if (data := _map(folder, manifest, name)) is not None:
        return data
    try:
        with locked(folder.with_suffix(".lock")):
            if (data := _map(folder, manifest, name)) is None:  # another process may have decoded it meanwhile
                if decode == "on_the_fly":
                    # For each place: a run on an object store and one on a copy of it need files of their own.
                    place = hashlib.sha256(f"{files.type_name} {root}".encode()).hexdigest()[:8]
                    checked = folder.with_name(f"{folder.name}-on-the-fly-{place}")
                    images, labels = open_shards(files, root, path, manifest, checked, say)
                    return ImageData(images, labels, store.num_classes(manifest), manifest["checksum"], name)
                _decode(files, root, path, manifest, folder, say)
                data = _map(folder, manifest, name)
    except OSError as error:
        raise UserError(f"{path}: cannot be read, or decoded to {folder}: {error}") from error
    assert data is not None, f"{folder} was written and cannot be mapped"
    return data


def image_side(path: str) -> int:
    """Height of the images, without opening them; raises UserError as open_data does."""
    if path == "digits":
        return int(_digits().images.shape[2])
    return int(read_manifest(path)["height"])


def read_manifest(path: str) -> dict[str, Any]:
    """What a prepared data set says of itself, checked; raises UserError as open_data does."""
    return _read_manifest(*_filesystem(path), path)


def _digits() -> ImageData:
    """scikit-learn's digits: 1,797 greyscale 8x8 images, 0..16 scaled to 0..255, 10 classes."""
    from sklearn.datasets import load_digits  # imported here: it takes a second, and only this name needs it

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return ImageData(images, labels, 10, digest, "digits")


# ---------------------------------------------------------------- finding it


def _filesystem(path: str) -> tuple[Any, str]:
    """The pyarrow file system of a path or URI, and the folder within it."""
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    return open_uri(path)


def _read_manifest(files: Any, root: str, path: str) -> dict[str, Any]:
    """The checked manifest of a complete data set; raises UserError that names the nearest valid thing."""
    try:
        with files.open_input_stream(f"{root}/{store.MANIFEST}") as stream:
            manifest = jsonfile.parse(stream.read())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(_not_prepared(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}/{store.MANIFEST}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != store.FORMAT:
        raise UserError(f'{path}/{store.MANIFEST}: its format is not "{store.FORMAT}"')
    if manifest.get("version") != store.VERSION:
        raise UserError(f"{path}: version {manifest.get('version')}, and this act_ray reads version {store.VERSION}")
    if manifest.get("complete") is not True:
        raise UserError(_unfinished(path))
    try:
        jsonfile.checked(manifest, store.Manifest)
    except ValueError as error:
        raise UserError(f"{path}/{store.MANIFEST}: damaged: {error}") from error
    whole = manifest["checksum"] == store.checksum(manifest)
    if not whole or sum(shard["count"] for shard in manifest["shards"]) != manifest["count"]:
        raise UserError(f"{path}/{store.MANIFEST}: damaged: its checksum does not match its content")
    return manifest


def _unfinished(path: str) -> str:
    return f"{path}: its preparation was not finished; run the same `{typed('prepare')} SRC DST` again to go on"


def _not_prepared(path: str) -> str:
    """Why a path without a manifest is no data set, and what to do."""
    local = Path(path).expanduser()
    if "://" in path:
        return f"{path}: no {store.MANIFEST} there: not a prepared data set"
    if not local.exists():
        if near(path, ["digits"]):
            return f"{path}: no such folder; did you mean digits?"
        siblings = [entry.name for entry in local.parent.iterdir() if entry.is_dir()] if local.parent.is_dir() else []
        sibling = near(local.name, [name for name in siblings if not name.startswith(".")])
        if sibling:
            return f"{path}: no such folder; did you mean {local.parent / sibling}?"
        return f'{path}: no such folder; `{typed("prepare", "SRC", path)}` makes one, and "digits" is built in'
    if (local / store.PROGRESS).exists():
        return _unfinished(path)
    try:
        kind = formats.detect(local).format
    except UserError:
        return f"{path}: not a prepared data set: it has no {store.MANIFEST}"
    return f"{path}: looks like unprepared data ({kind}): run `{typed('prepare', path, 'DST')}` first, and give DST"


# ---------------------------------------------------------------- the decoded cache


def _map(folder: Path, manifest: dict[str, Any], name: str) -> ImageData | None:
    """Map a decoded cache; None when it is missing, or not what was written."""
    classes = store.num_classes(manifest)
    try:
        if not all(unchanged(folder / file.name, file) for file in jsonfile.read(folder / WRITTEN, list[Written])):
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False) if classes else None
    except (OSError, ValueError, EOFError):
        return None
    if images.shape != _shape(manifest) or (labels is not None and labels.shape != images.shape[:1]):
        return None
    return ImageData(images, labels, classes, manifest["checksum"], name)


def _shape(manifest: dict[str, Any]) -> tuple[int, ...]:
    return tuple(manifest[key] for key in ("count", "channels", "height", "width"))


def _decode(files: Any, root: str, path: str, manifest: dict[str, Any], folder: Path, say: Say) -> None:
    """Write the cache aside and rename it; the caller holds the lock.

    Plain writes rather than a writable map: dirty pages of a map would count as this process's memory.
    """
    decoded, count = store.decoded_bytes(manifest), manifest["count"]
    say(f"{path}: decoding {count:,} images to {in_units(decoded)} in {folder.parent}, once on this machine")
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir()
    copy = temporary / "shard"  # so that what was checked is what is read
    labels = list[NDArray[np.int64]]()
    try:
        most = decoded + max(shard["bytes"] for shard in manifest["shards"])
        store.free_space(temporary, most, "data.decode=on_the_fly reads the shards instead, or ")
        with (
            open(temporary / "images.npy", "wb") as images,
            ProgressBar("decoding", count, "images", say) as progress,
        ):
            header = {"descr": "|u1", "fortran_order": False, "shape": _shape(manifest)}
            np.lib.format.write_array_header_1_0(images, header)
            for shard in manifest["shards"]:
                store.copy_shard(files, root, path, shard, copy)
                part = store.read_shard(copy, f"{path}/{shard['file']}", manifest, shard, images)
                labels += [] if part is None else [part]
                copy.unlink()
                progress.advance(shard["count"])
        if labels:
            np.save(temporary / "labels.npy", np.concatenate(labels), allow_pickle=False)
        files_written = sorted(temporary.iterdir())
        jsonfile.write(temporary / WRITTEN, [asdict(written(path)) for path in files_written])
        shutil.rmtree(folder, ignore_errors=True)  # there only when it could not be mapped
        publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def about(data: ImageData) -> str:
    """How many images of what kind, for people."""
    n, channels, height, width = data.images.shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{n:,} images of {height}x{width}, {kind}, {data.num_classes or 'no'} classes"


def label_counts(data: ImageData) -> list[int] | None:
    """Images per class."""
    return None if data.labels is None else np.bincount(data.labels, minlength=data.num_classes).tolist()
