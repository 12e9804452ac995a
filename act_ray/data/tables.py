"""Images kept in tables: Hugging Face Parquet, and npz arrays; both streamed, a few MB in memory at a time."""

import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from act_ray.data.decoding import BadImage
from act_ray.data.records import LABEL_NAMES, LabelChoice, Record, Source, choose_label, unread_note
from act_ray.errors import UserError

CHUNK_BYTES = 4 << 20


def find_parquet_source(files: Sequence[Path], choice: LabelChoice) -> Source:
    """Raises UserError for a file without images, files that differ, or where the user has to choose the label."""
    found = {path: pq.read_schema(path) for path in files}
    kinds = {_label_kind(path, schema, choice): path for path, schema in found.items()}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(map(str, kinds.values()))} name their classes differently: prepare them apart")
    ((label, text, classes),) = kinds
    positions = None
    if label is not None and text:
        classes = _texts(files, label)
        positions = {name: position for position, name in enumerate(classes)}
    note = unread_note(str(files[0]), _label_columns(found[files[0]])) if label is None and choice.wanted else None
    count = sum(pq.read_metadata(path).num_rows for path in files)

    def records() -> Iterator[Record]:
        return (record for path in files for record in read_parquet(path, label, positions))

    return Source("Hugging Face Parquet", files[0], records, classes, count, note)


def _label_kind(path: Path, schema: pa.Schema, choice: LabelChoice) -> tuple[str | None, bool, tuple[str, ...] | None]:
    """The label's column, whether it is text, and the names of its classes in the `huggingface` metadata."""
    label = _label_column(path, schema, choice)
    return label, label is not None and _is_text(schema.field(label).type), _class_names(schema, label)


def _texts(files: Sequence[Path], label: str) -> tuple[str, ...]:
    """The labels of a column of text, in sorted order."""
    values = set[str | None]()
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[label]):
                values.update(batch.column(0).to_pylist())
    return tuple(sorted(value for value in values if value))


def read_parquet(path: Path, label: str | None, positions: dict[str, int] | None) -> Iterator[Record]:
    """Yield the images of one Hugging Face Parquet file; a label of -1, null or "" is its way of saying none.

    positions: of the classes by name, where the labels are text.
    """
    with pq.ParquetFile(path) as file:
        image = _image_column(path, file.schema_arrow)
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[image, label] if label else [image]):
            values = batch.column(image).to_pylist()
            labels = batch.column(label).to_pylist() if label else [None] * len(values)
            for value, said in zip(values, labels, strict=True):
                inner = value if isinstance(value, dict) else {"bytes": value}
                raw = inner["bytes"] if inner["bytes"] is not None else BadImage("its row holds no bytes")
                number = said if positions is None else positions.get(said)
                yield Record(f"{path.name}/{inner.get('path') or row}", raw, None if number == -1 else number)
                row += 1


def _image_column(path: Path, schema: pa.Schema) -> str:
    images = [field.name for field in schema if _holds_images(field.type)]
    if not images:
        raise UserError(f"{path}: no image column (a struct of bytes and path); found {', '.join(schema.names)}")
    return next((name for name in ("image", "img") if name in images), images[0])


def _label_column(path: Path, schema: pa.Schema, choice: LabelChoice) -> str | None:
    _image_column(path, schema)
    alike = [name for name in schema.names if name in LABEL_NAMES or _class_names(schema, name)]
    label = choose_label(str(path), _label_columns(schema), alike, choice)
    if label is not None and label not in _label_columns(schema):
        raise UserError(
            f"{path}: its column {label} of {schema.field(label).type} is no single label; "
            "choose --labels NAME or --no-labels"
        )
    return label


def _label_columns(schema: pa.Schema) -> list[str]:
    """Columns that can hold a label: whole numbers or text."""
    return [field.name for field in schema if pa.types.is_integer(field.type) or _is_text(field.type)]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...] | None:
    """Class names out of the `huggingface` metadata, where `datasets` writes its features."""
    content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = content.get("info", {}).get("features", {}).get(label, {})
    return tuple(map(str, feature["names"])) if isinstance(feature, dict) and feature.get("names") else None


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
            for i, row in enumerate(_rows(path, file, shape)):
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
