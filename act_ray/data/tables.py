"""Images kept in tables as Hugging Face's `datasets` writes them: Parquet, and the Arrow files of save_to_disk.

Both are streamed, a few MB in memory at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from act_ray import jsonfile
from act_ray.data.decoding import BadImage
from act_ray.data.records import LABEL_NAMES, LabelChoice, Record, Source, choose_label, unread_note
from act_ray.errors import UserError

SAVED, SPLITS = "state.json", "dataset_dict.json"  # of save_to_disk: of a Dataset, and of a DatasetDict


def find_saved_source(folder: Path, choice: LabelChoice) -> Source | None:
    """The folder of datasets' save_to_disk; None for another. Raises UserError where a split has to be chosen."""
    splits = _field(folder / SPLITS, "splits")
    if splits:
        raise UserError(f"{folder}: choose one of {', '.join(f'--split {name}' for name in splits)}")
    try:
        files = [folder / Path(file["filename"]).name for file in _field(folder / SAVED, "_data_files")]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / SAVED}: damaged: {type(error).__name__} {error}") from error
    return find_table_source(files, choice, "Hugging Face save_to_disk") if files else None


def _field(path: Path, name: str) -> list[Any]:
    """A list in a file of JSON; empty for a file of another kind: its name is a common one."""
    try:
        content = jsonfile.parse(path.read_bytes()) if path.is_file() else None
    except ValueError:
        return []
    found = content.get(name) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def find_table_source(files: Sequence[Path], choice: LabelChoice, title: str = "Hugging Face Parquet") -> Source:
    """Raises UserError for a file without images, files that differ, or where the user has to choose the label."""
    if missing := [path for path in files if not path.is_file()]:
        raise UserError(f"{missing[0]}: no such plain file")
    found = {path: _schema(path) for path in files}
    kinds = {_label_kind(path, schema, choice): path for path, schema in found.items()}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(map(str, kinds.values()))} name their classes differently: prepare them apart")
    ((label, text, classes),) = kinds
    positions = None
    if label is not None and text:
        classes = _texts(files, label)
        positions = {name: position for position, name in enumerate(classes)}
    note = unread_note(str(files[0]), _label_columns(found[files[0]])) if label is None and choice.wanted else None
    count = sum(_count(path) for path in files)

    def records() -> Iterator[Record]:
        return (record for path in files for record in read_table(path, label, positions))

    return Source(title, files[0], records, classes, count, note)


def _label_kind(path: Path, schema: pa.Schema, choice: LabelChoice) -> tuple[str | None, bool, tuple[str, ...] | None]:
    """The label's column, whether it is text, and the names of its classes in the `huggingface` metadata."""
    label = _label_column(path, schema, choice)
    return label, label is not None and _is_text(schema.field(label).type), _class_names(schema, label)


def _texts(files: Sequence[Path], label: str) -> tuple[str, ...]:
    """The labels of a column of text, in sorted order."""
    values = set[str | None]()
    for path in files:
        for batch in _batches(path, [label]):
            values.update(batch.column(0).to_pylist())
    return tuple(sorted(value for value in values if value))


def read_table(path: Path, label: str | None, positions: dict[str, int] | None) -> Iterator[Record]:
    """Yield the images of one file; a label of -1, null or "" is its way of saying none.

    positions: of the classes by name, where the labels are text.
    """
    image, row = _image_column(path, _schema(path)), 0
    for batch in _batches(path, [image, label] if label else [image]):
        values = batch.column(image).to_pylist()
        labels = batch.column(label).to_pylist() if label else [None] * len(values)
        for value, said in zip(values, labels, strict=True):
            inner = value if isinstance(value, dict) else {"bytes": value}
            raw = inner["bytes"] if inner["bytes"] is not None else BadImage("its row holds no bytes")
            number = said if positions is None else positions.get(said)
            yield Record(f"{path.name}/{inner.get('path') or row}", raw, None if number == -1 else number)
            row += 1


def _schema(path: Path) -> pa.Schema:
    if path.suffix == ".parquet":
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).schema


def _count(path: Path) -> int:
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    with pa.memory_map(str(path)) as file:
        return sum(batch.num_rows for batch in pa.ipc.open_stream(file))


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of these columns, at most 256 at a time."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as parquet:
            yield from parquet.iter_batches(batch_size=256, columns=columns)
        return
    with pa.memory_map(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            for start in range(0, batch.num_rows, 256):
                yield batch.select(columns).slice(start, 256)


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
    found = jsonfile.parse((schema.metadata or {}).get(b"huggingface", b"{}"))
    for name in ("info", "features", label, "names"):
        found = found.get(name) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) and found else None
