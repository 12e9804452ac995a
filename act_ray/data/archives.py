"""Images in zip and tar archives, streamed out of them; nothing is extracted, and no name leads out of an archive."""

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from act_ray import jsonfile
from act_ray.data.decoding import MAX_BYTES, BadImage
from act_ray.data.records import LabelChoice, Record, Source, is_image, labelled
from act_ray.errors import UserError

MAX_JSON_BYTES = 256 << 20  # dataset.json: about 40 bytes an image
PACKING_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)  # last: a method zipfile lacks


def refusal(name: str) -> str | None:
    """Why an archive member's name may not be used, or None: it must stay below the archive's own root."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        return "its name leads out of the archive"
    return None


def find_zip_source(path: Path, choice: LabelChoice) -> Source:
    """Raises UserError for a zip of class folders, whose labels only dataset.json could give."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    folders = sorted({PurePosixPath(name).parent.name for name in names if is_image(name) and not refusal(name)})
    classes = len(folders) > 1 and all(folders) and not all(map(str.isdigit, folders))  # EDM's are 00000, 00001, ...
    if choice.wanted and classes and "dataset.json" not in names:
        raise UserError(
            f"{path}: its folders {', '.join(folders[:3])}{', ...' * (len(folders) > 3)} look like classes, and "
            "a zip's labels are read from its dataset.json alone; unpack it and give the folder, or give --no-labels"
        )
    return Source("EDM/StyleGAN zip", path, lambda: read_zip(path))


def read_zip(path: Path) -> Iterator[Record]:
    """Yield the images of an EDM/StyleGAN zip; labels from its dataset.json, None where it has none."""
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda info: info.filename)
        index = [info for info in members if info.filename == "dataset.json"]
        content = _zip_bytes(archive, index[0], MAX_JSON_BYTES) if index else b"{}"
        if isinstance(content, BadImage):
            raise UserError(f"{path}: dataset.json {content}")
        labels = edm_labels(content)
        for info in members:
            if not info.is_dir() and is_image(info.filename):
                label = labels.get(info.filename) if labels else None
                yield labelled(info.filename, _zip_bytes(archive, info, MAX_BYTES), label)


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
    except (*PACKING_ERRORS, EOFError, OSError) as error:
        return BadImage(f"its archive member is damaged: {error}")
    return content if len(content) <= limit else BadImage(f"over the cap of {limit} encoded bytes")


def edm_labels(raw: bytes) -> dict[str, Any] | None:
    """Labels by file name out of dataset.json; None when it has none."""
    content = jsonfile.parse(raw)
    pairs = content.get("labels") if isinstance(content, dict) else None
    return {str(name): label for name, label in pairs} if pairs else None


def tar_files(path: Path, limit: Callable[[str], int]) -> Iterator[tuple[str, bytes | BadImage]]:
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
