"""Images kept as arrays: npz, npy, and MNIST's idx; all streamed, a few MB in memory at a time."""

import gzip
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from tokenize import TokenError
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from act_ray.data.decoding import MAX_PIXELS
from act_ray.data.records import LabelChoice, Record, Source, labelled
from act_ray.errors import UserError

CHUNK_BYTES = 4 << 20
MAX_LABELS = 1 << 26  # of one npz, which are held in memory


def find_npz_source(files: Sequence[Path], choice: LabelChoice) -> Source:
    """Raises UserError for arrays that might be labels and are not read."""
    for path in files:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        image, label = ("data", "labels") if "data" in names else ("arr_0", "arr_1")
        others = [name for name in names if name not in (image, "mean")]
        if choice.wanted and image in names and others and label not in names:
            raise UserError(
                f"{path}: labels beside {image} are read from {label}, and it has {', '.join(others)}; "
                f"rename the array to {label}, or give --no-labels"
            )
    return Source("npz", files[0], lambda: (record for path in files for record in npz_images(path)))


def npz_images(path: Path) -> Iterator[Record]:
    """Yield (name, pixels [H, W, C], label) of one npz.

    ImageNet-64 as published: `data` uint8 [n, C*H*W] and `labels` 1-based. Else as EDM and OpenAI write it: `arr_0`
    uint8 [n, H, W, C] and, if there, `arr_1` labels 0-based. Read off the zip member row by row: np.load would hold the
    whole array (1.6 GB for one of ImageNet-64's ten), and no byte is ever unpickled.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        planar = "data.npy" in members
        key, labels_key, base = ("data.npy", "labels.npy", 1) if planar else ("arr_0.npy", "arr_1.npy", 0)
        if key not in members:
            raise UserError(f"{path}: no array `data` or `arr_0`; found {', '.join(members)}")
        with archive.open(key) as file:
            shape, dtype = _npy_header(path, key, file)
            if dtype != np.uint8 or not (_planar_side(shape) if planar else len(shape) in (3, 4)):
                raise UserError(f"{path}: {key} is {dtype} {list(shape)}, not uint8 [n, 3*H*H] or [n, H, W, C]")
            labels = _npz_labels(path, archive, labels_key, shape[0]) if labels_key in members else None
            for i, row in enumerate(_rows(str(path), file, shape)):
                side = _planar_side(shape)
                pixels = row.reshape(-1, side, side).transpose(1, 2, 0) if planar else row
                yield Record(f"{path.name}/{i}", pixels, None if labels is None else int(labels[i]) - base)


def _planar_side(shape: tuple[int, ...]) -> int:
    """H of images flattened as [n, 3*H*H], or 0 when the shape is not that."""
    side = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
    return side if side and 3 * side * side == shape[1] else 0


def _npy_header(path: Path, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype; only C order and plain numbers pass."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except (SyntaxError, TokenError) as error:  # NumPy tries again as if Python 2 had written it, and lets these out
        raise UserError(f"{path}: {key} is damaged: its head is not one of NumPy's") from error
    if fortran or dtype.kind not in "ui" or not shape:
        raise UserError(f"{path}: {key} is {dtype} {list(shape)}{' in Fortran order' if fortran else ''}, not readable")
    return shape, dtype


def _rows(path: str, file: IO[bytes], shape: tuple[int, ...], what: str = "images") -> Iterator[NDArray[np.uint8]]:
    size = math.prod(shape[1:])
    if size > 4 * MAX_PIXELS:
        raise UserError(f"{path}: {list(shape[1:])} for an image, over the cap of {4 * MAX_PIXELS} bytes")
    step = max(1, CHUNK_BYTES // max(1, size))
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        raw = file.read(rows * size)
        if len(raw) != rows * size:
            raise UserError(f"{path}: cut short after {start} of {shape[0]} {what}")
        yield from np.frombuffer(raw, dtype=np.uint8).reshape(rows, *shape[1:])


def _npz_labels(path: Path, archive: zipfile.ZipFile, key: str, count: int) -> NDArray[np.generic]:
    with archive.open(key) as file:
        shape, dtype = _npy_header(path, key, file)
        if count > MAX_LABELS:
            raise UserError(f"{path}: {count} labels, over the cap of {MAX_LABELS}")
        raw = file.read(count * dtype.itemsize)
    if shape not in ((count,), (count, 1)) or len(raw) != count * dtype.itemsize:
        raise UserError(f"{path}: {key} has shape {list(shape)} for {count} images")
    return np.frombuffer(raw, dtype=dtype)


# ---------------------------------------------------------------- npy


def find_npy_source(files: Sequence[Path]) -> Source:
    """Images without labels. Raises UserError for arrays that are not images."""
    for path in files:
        with open(path, "rb") as file:
            _npy_images(path, file)
    note = f"{files[0]}: .npy holds no labels; an .npz with arr_0 and arr_1, or a folder per class, does"
    return Source("npy", files[0], lambda: (record for path in files for record in npy_images(path)), note=note)


def npy_images(path: Path) -> Iterator[Record]:
    """Yield (name, pixels [H, W] or [H, W, C], None) of uint8 [n, H, W], [n, H, W, C] or [n, C, H, W]; C: 1, 3, 4."""
    with open(path, "rb") as file:
        shape, planar = _npy_images(path, file)
        for i, row in enumerate(_rows(str(path), file, shape)):
            yield Record(f"{path.name}/{i}", row.transpose(1, 2, 0) if planar else row, None)


def _npy_images(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool]:
    """The shape, and whether channels come first; leaves `file` at the first image."""
    shape, dtype = _npy_header(path, path.name, file)
    planar = len(shape) == 4 and shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4)
    if dtype != np.uint8 or not (len(shape) == 3 or planar or (len(shape) == 4 and shape[3] in (1, 3, 4))):
        raise UserError(f"{path}: {dtype} {list(shape)}, not uint8 [n, H, W], [n, H, W, C] or [n, C, H, W]")
    return shape, planar


# ---------------------------------------------------------------- idx


def is_idx(name: str) -> bool:
    """Whether a file is named like MNIST's images: train-images-idx3-ubyte, t10k-images.idx3-ubyte.gz, ..."""
    return "images" in name and name.removesuffix(".gz").endswith("idx3-ubyte")


def find_idx_source(files: Sequence[Path], choice: LabelChoice) -> Source:
    """MNIST's, Fashion-MNIST's and the like, with the labels beside them. Raises UserError where those are missing."""
    labels = {path: _idx_labels(path) for path in files}
    missing = [path for path, beside in labels.items() if beside is None]
    if choice.wanted and missing:
        name = missing[0].name.replace("images", "labels").replace("idx3", "idx1")
        raise UserError(f"{missing[0]}: its labels, {name}, are not beside it; put them there, or give --no-labels")
    wanted = labels if choice.wanted else dict.fromkeys(files)
    return Source("idx", files[0], lambda: (record for path in files for record in idx_images(path, wanted[path])))


def _idx_labels(path: Path) -> Path | None:
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = (path.with_name(name + end) for end in ("", ".gz"))
    return next((beside for beside in found if beside.is_file()), None)


def idx_images(path: Path, labels: Path | None) -> Iterator[Record]:
    """Yield (name, pixels [H, W], label) of one file of images and its file of labels."""
    with _opened(path) as file, ExitStack() as stack:
        shape = _idx_header(path, file, 3)
        numbers: Iterator[object] = repeat(None)
        if labels is not None:
            beside = stack.enter_context(_opened(labels))
            (count,) = _idx_header(labels, beside, 1)
            if count != shape[0]:
                raise UserError(f"{labels}: {count} labels for the {shape[0]} images of {path.name}")
            numbers = map(int, _rows(str(labels), beside, (count,), "labels"))
        for i, (row, number) in enumerate(zip(_rows(str(path), file, shape), numbers, strict=False)):
            yield labelled(f"{path.name}/{i}", row, number)


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else open(path, "rb")


def _idx_header(path: Path, file: IO[bytes], dims: int) -> tuple[int, ...]:
    """The shape; two zero bytes, 8 for uint8, the number of dimensions, then their sizes, big-endian."""
    raw = file.read(4 + 4 * dims)
    if len(raw) < 4 + 4 * dims or raw[:4] != bytes((0, 0, 8, dims)):
        raise UserError(f"{path}: not an idx file of uint8 in {dims} dimension(s)")
    return tuple(int(size) for size in np.frombuffer(raw[4:], dtype=">u4"))
