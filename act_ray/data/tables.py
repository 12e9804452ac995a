"""Images kept in tables: Hugging Face Parquet, and npz arrays; both streamed, a few MB in memory at a time."""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from act_ray.data.decoding import BadImage, Raw
from act_ray.errors import UserError

CHUNK_BYTES = 4 << 20
LABELS = ("label", "labels", "fine_label", "cls", "class")


class ParquetInfo(NamedTuple):
    """What the footers of a set of Parquet files say together."""

    images: int
    classes: tuple[str, ...] | None


def parquet_info(files: list[Path]) -> ParquetInfo:
    """Rows and class names; raises UserError for a file without images, or files whose class names differ."""
    count, names = 0, dict[tuple[str, ...] | None, Path]()
    for path in files:
        with pq.ParquetFile(path) as file:
            _, label = _columns(path, file.schema_arrow)
            names.setdefault(_class_names(file.schema_arrow, label), path)
            count += file.metadata.num_rows
    if len(names) > 1:
        raise UserError(f"{' and '.join(map(str, names.values()))} name their classes differently: prepare them apart")
    return ParquetInfo(images=count, classes=next(iter(names)))


def parquet_images(path: Path) -> Iterator[tuple[str, Raw, int | None]]:
    """Yield (name, encoded image, label) of one Hugging Face Parquet file; a label of -1 is its way of saying none."""
    with pq.ParquetFile(path) as file:
        image, label = _columns(path, file.schema_arrow)
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[image, label] if label else [image]):
            values = batch.column(image).to_pylist()
            labels = batch.column(label).to_pylist() if label else [None] * len(values)
            for value, number in zip(values, labels, strict=True):
                inner = value if isinstance(value, dict) else {"bytes": value}
                raw = inner["bytes"] if inner["bytes"] is not None else BadImage("its row holds no bytes")
                yield f"{path.name}/{inner.get('path') or row}", raw, None if number == -1 else number
                row += 1


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str | None]:
    """Names of the image column (struct with bytes, or binary) and of the label column, if any."""
    images = [field.name for field in schema if _holds_images(field.type)]
    if not images:
        raise UserError(f"{path}: no image column (a struct of bytes and path); found {', '.join(schema.names)}")
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    labels = [name for name in LABELS if name in numbers]
    return next((name for name in ("image", "img") if name in images), images[0]), labels[0] if labels else None


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...] | None:
    """Class names out of the `huggingface` metadata, where `datasets` writes its features."""
    content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = content.get("info", {}).get("features", {}).get(label, {})
    return tuple(map(str, feature["names"])) if isinstance(feature, dict) and feature.get("names") else None


def npz_images(path: Path) -> Iterator[tuple[str, Raw, int | None]]:
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
            for i, row in enumerate(_rows(path, file, shape)):
                side = _planar_side(shape)
                pixels = row.reshape(-1, side, side).transpose(1, 2, 0) if planar else row
                yield f"{path.name}/{i}", pixels, None if labels is None else int(labels[i]) - base


def _planar_side(shape: tuple[int, ...]) -> int:
    """H of images flattened as [n, 3*H*H], or 0 when the shape is not that."""
    side = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
    return side if side and 3 * side * side == shape[1] else 0


def _npy_header(path: Path, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype; only C order and plain numbers pass."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran or dtype.kind not in "ui" or not shape:
        raise UserError(f"{path}: {key} is {dtype} {list(shape)}{' in Fortran order' if fortran else ''}, not readable")
    return shape, dtype


def _rows(path: Path, file: IO[bytes], shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    size = math.prod(shape[1:])
    step = max(1, CHUNK_BYTES // max(1, size))
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        raw = file.read(rows * size)
        if len(raw) != rows * size:
            raise UserError(f"{path}: cut short after {start} of {shape[0]} images")
        yield from np.frombuffer(raw, dtype=np.uint8).reshape(rows, *shape[1:])


def _npz_labels(path: Path, archive: zipfile.ZipFile, key: str, count: int) -> NDArray[np.generic]:
    with archive.open(key) as file:
        shape, dtype = _npy_header(path, key, file)
        raw = file.read(count * dtype.itemsize)
    if shape not in ((count,), (count, 1)) or len(raw) != count * dtype.itemsize:
        raise UserError(f"{path}: {key} has shape {list(shape)} for {count} images")
    return np.frombuffer(raw, dtype=dtype)
