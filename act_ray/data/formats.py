"""Readers of the data sets people have: each streams records out of its source and extracts nothing.

A record whose image must not be used (a name that leaves its archive, a link, a member over a cap) carries a BadImage
in place of the image, so that it ends in the quarantine list under its name. A file that is damaged as a whole is a
UserError. Everything in a source is read, in name order (archives that can only be streamed: in their own order).
"""

import difflib
import json
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from act_ray.data import cifar, tables
from act_ray.data.decoding import MAX_BYTES, BadImage, Raw
from act_ray.errors import UserError

ACCEPTED = (
    "a folder of images (one sub-folder per class, or flat), CIFAR-10's Python batches (folder or .tar.gz), "
    "Hugging Face .parquet, ImageNet-64 or EDM .npz, an EDM/StyleGAN .zip, WebDataset .tar"
)
SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
MAX_JSON_BYTES = 256 << 20  # dataset.json: about 40 bytes an image


class Record(NamedTuple):
    """One image as its source holds it; label None when the source gives it none."""

    name: str
    image: Raw
    label: int | None


@dataclass(frozen=True)
class Source:
    """A recognised source; `records()` starts a new pass over it. count is None when only a pass would tell."""

    format: str
    path: Path
    records: Callable[[], Iterator[Record]]
    classes: tuple[str, ...] | None = None
    count: int | None = None


def detect(src: str | os.PathLike[str]) -> Source:
    """Recognise a source by its names and headers; raises UserError that says what is there and what is accepted."""
    path = Path(src)
    if not path.exists():
        near = difflib.get_close_matches(path.name, os.listdir(path.parent) if path.parent.is_dir() else [], n=1)
        raise UserError(
            f"{path}: no such file or folder" + (f"; did you mean {path.parent / near[0]}?" if near else "")
        )
    try:
        source = _detect_folder(path) if path.is_dir() else _detect_file(path)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return Source(source.format, path, partial(_guarded, path, source.records), source.classes, source.count)


_PACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)  # last: a method zipfile lacks
_DAMAGE = (*_PACKING, tarfile.TarError, OSError, EOFError, ValueError, RecursionError)


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: damaged, or not what its name says: {' '.join(str(error).split())[:300]}")


def _guarded(path: Path, records: Callable[[], Iterator[Record]]) -> Iterator[Record]:
    try:
        yield from records()
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _detect_file(path: Path) -> Source:
    name = path.name.lower()
    if cifar.is_batch(path.name):
        return Source("CIFAR-10 batch", path, partial(read_cifar, [path]), cifar.CLASSES)
    if name.endswith(".parquet"):
        return _parquet([path])
    if name.endswith(".npz"):
        return Source("npz", path, partial(_read_npz, [path]))
    if name.endswith(".zip"):
        return Source("EDM/StyleGAN zip", path, partial(read_zip, path))
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        with tarfile.open(path, "r|*") as archive:
            if any(cifar.is_batch(member.name) for member in islice(archive, 10)):
                return Source("CIFAR-10 archive", path, partial(read_cifar_tar, path), cifar.CLASSES)
        return Source("WebDataset tar", path, partial(read_tar, [path]))
    raise UserError(f"{path}: found a file of another kind; accepted: {ACCEPTED}")


def _detect_folder(path: Path) -> Source:
    manifest = path / "manifest.json"
    if manifest.is_file() and "act_ray.images" in manifest.read_text(errors="replace"):
        raise UserError(f"{path}: already prepared; give it to training as data.path")
    for folder in (path, path / "cifar-10-batches-py"):
        if batches := sorted(file for file in folder.glob("*_batch*") if cifar.is_batch(file.name)):
            return Source("CIFAR-10 batches", path, partial(read_cifar, batches), cifar.CLASSES)
    if parquet := sorted(path.rglob("*.parquet")):
        return _parquet(parquet)
    if npz := sorted(path.glob("*.npz")):
        return Source("npz", path, partial(_read_npz, npz))
    if tars := sorted(path.glob("*.tar")):
        return Source("WebDataset tars", path, partial(read_tar, tars))
    if next(read_folder(path), None) is not None:
        return Source("image folder", path, partial(read_folder, path), _folder_classes(path))
    found = sorted(entry.name for entry in os.scandir(path))
    listing = f"{', '.join(found[:5])}{', ...' if len(found) > 5 else ''}" if found else "nothing"
    raise UserError(f"{path}: found {listing}; accepted: {ACCEPTED}")


def _parquet(files: list[Path]) -> Source:
    info = tables.parquet_info(files)
    read = partial(_records, lambda: (row for file in files for row in tables.parquet_images(file)))
    return Source("Hugging Face Parquet", files[0], read, info.classes, info.images)


def _records(rows: Callable[[], Iterator[tuple[str, Raw, int | None]]]) -> Iterator[Record]:
    return (Record(*row) for row in rows())


def _read_npz(files: list[Path]) -> Iterator[Record]:
    return (Record(*row) for file in files for row in tables.npz_images(file))


# ---------------------------------------------------------------- image folder


def read_folder(root: Path) -> Iterator[Record]:
    """Yield the images under `root`; the label is the position of the top sub-folder's name among the sorted ones.

    A flat folder has no labels, and beside class folders an image at the top is refused. An unpacked EDM folder keeps
    the labels of its dataset.json. Links are followed: they are the user's own.
    """
    classes = _folder_classes(root)
    index = root / "dataset.json"
    labels = _edm_labels(index.read_bytes()) if index.is_file() else None
    for position, top in enumerate(classes or [""]):
        for folder, folders, files in os.walk(root / top):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in sorted(filter(is_image, files)):
                full = Path(folder, file)
                name = full.relative_to(root).as_posix()
                label: object = labels.get(name) if labels is not None else position if classes else None
                yield _labelled(name, _file_bytes(full), label)
    if classes:
        for file in sorted(filter(is_image, os.listdir(root))):
            yield Record(file, BadImage("lies beside the class folders, so it has no label"), None)


def _folder_classes(root: Path) -> tuple[str, ...] | None:
    """Sorted names of the sub-folders that hold an image; None for a flat folder or one labelled by dataset.json."""
    if (root / "dataset.json").is_file():
        return None
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    full = [name for name in folders if any(any(map(is_image, files)) for _, _, files in os.walk(root / name))]
    return tuple(full) or None


def is_image(name: str) -> bool:
    """Whether a name ends like an image's and is no hidden file (such as macOS's ._copies)."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _file_bytes(path: Path) -> Raw:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)  # one over the cap is enough for the decoder to refuse it
    except OSError as error:
        return BadImage(f"cannot be read: {error.strerror}")


# ---------------------------------------------------------------- CIFAR-10


def read_cifar(files: list[Path]) -> Iterator[Record]:
    """Yield the images of CIFAR-10 batch files."""
    for file in files:
        if file.stat().st_size > cifar.MAX_BATCH_BYTES:
            raise UserError(f"{file}: {file.stat().st_size} bytes, over the cap of {cifar.MAX_BATCH_BYTES} for a batch")
        yield from (Record(*image) for image in cifar.batch_images(str(file), file.read_bytes()))


def read_cifar_tar(path: Path) -> Iterator[Record]:
    """Yield the images of cifar-10-python.tar.gz, one batch in memory at a time."""
    for name, content in _tar_files(path, lambda name: cifar.MAX_BATCH_BYTES if cifar.is_batch(name) else 0):
        if isinstance(content, BadImage):
            yield Record(name, content, None)
        else:
            yield from (Record(*image) for image in cifar.batch_images(f"{path}: {name}", content))


# ---------------------------------------------------------------- archives


def refusal(name: str) -> str | None:
    """Why an archive member's name may not be used, or None: it must stay below the archive's own root."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        return "its name leads out of the archive"
    return None


def read_zip(path: Path) -> Iterator[Record]:
    """Yield the images of an EDM/StyleGAN zip; labels from its dataset.json, None where it has none."""
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda info: info.filename)
        index = [info for info in members if info.filename == "dataset.json"]
        content = _zip_bytes(archive, index[0], MAX_JSON_BYTES) if index else b"{}"
        if isinstance(content, BadImage):
            raise UserError(f"{path}: dataset.json {content}")
        labels = _edm_labels(content)
        for info in members:
            if not info.is_dir() and is_image(info.filename):
                label = labels.get(info.filename) if labels else None
                yield _labelled(info.filename, _zip_bytes(archive, info, MAX_BYTES), label)


def _zip_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes | BadImage:
    if reason := refusal(info.filename):
        return BadImage(reason)
    if stat.S_ISLNK(info.external_attr >> 16):
        return BadImage("is a link")
    if info.flag_bits & 1:
        return BadImage("is encrypted")
    try:
        with archive.open(info) as file:
            content = file.read(limit + 1)  # bounded by what is read: a header may lie about its size
    except (*_PACKING, EOFError, OSError) as error:
        return BadImage(f"its archive member is damaged: {error}")
    return content if len(content) <= limit else BadImage(f"over the cap of {limit} encoded bytes")


def _edm_labels(raw: bytes) -> dict[str, Any] | None:
    """Labels by file name out of dataset.json; None when it has none."""
    content = json.loads(raw)
    pairs = content.get("labels") if isinstance(content, dict) else None
    return {str(name): label for name, label in pairs} if pairs else None


def _labelled(name: str, image: Raw, label: object) -> Record:
    if label is None or (isinstance(label, int) and not isinstance(label, bool)):
        return Record(name, image, label)
    return Record(name, BadImage("its label is not a whole number"), None)


def read_tar(files: list[Path]) -> Iterator[Record]:
    """Yield the images of WebDataset tars: `key.jpg` with an optional `key.cls` beside it, a whole number as text."""
    for path in files:
        key, images, label = "", list[tuple[str, Raw]](), None
        for name, content in _tar_files(path, lambda name: MAX_BYTES if is_image(name) else 64 * name.endswith(".cls")):
            folder, _, base = name.rpartition("/")
            if (new := f"{folder}/{base.partition('.')[0]}") != key:
                yield from (_labelled(image, raw, label) for image, raw in images)
                key, images, label = new, [], None
            if is_image(name):
                images.append((name, content))
            else:
                text = content.strip() if isinstance(content, bytes) else b""
                label = int(text) if text.isdigit() else "unreadable"
        yield from (_labelled(image, raw, label) for image, raw in images)


def _tar_files(path: Path, limit: Callable[[str], int]) -> Iterator[tuple[str, bytes | BadImage]]:
    """Stream a tar, compressed or not: the members whose limit in bytes is not 0, in its own order."""
    with tarfile.open(path, "r|*") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or it would keep every header it has passed
            cap = limit(member.name)
            if member.isdir() or not cap:
                continue
            if reason := refusal(member.name):
                yield member.name, BadImage(reason)
            elif not member.isfile():
                yield member.name, BadImage("is a link" if member.issym() or member.islnk() else "is not a plain file")
            elif member.size > cap:
                yield member.name, BadImage(f"over the cap of {cap} encoded bytes")
            else:
                file = archive.extractfile(member)
                yield member.name, file.read() if file else b""
