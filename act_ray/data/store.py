"""The one format training reads, on disk: Parquet shards of raw uint8 pixels under a manifest.json.

    shard-00000.parquet ...  image: fixed_size_binary(C*H*W), CHW; label: int32, absent when unlabelled; name: string
    manifest.json            written last: without it, or without "complete": true, nothing here is a data set

Parquet, because every tool reads it. Decoded once per node to a memory map, because gathering a batch from that takes
no decoding at all, or read where they are (on_the_fly.py): a row group is what is decompressed to get at one image, so
the writer keeps them small.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from act_ray import files
from act_ray.errors import UserError
from act_ray.files import in_units

Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 53)]
FORMAT, VERSION = "act_ray.images", 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
GROUP_BYTES = 128 << 10  # pixels per Parquet row group, or one image: less makes their list in each shard long
READ_BYTES = 8 << 20  # pixels that are decoded at once when all of a shard is read
COPY_BYTES = 4 << 20


# ---------------------------------------------------------------- manifest


class ShardEntry(TypedDict):
    """A shard in the manifest."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5,}\.parquet$")]
    count: Count
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(TypedDict):
    """What a data set must say of itself."""

    count: Annotated[Count, Field(ge=1)]
    channels: Annotated[Count, Field(ge=1)]
    height: Annotated[Count, Field(ge=1)]
    width: Annotated[Count, Field(ge=1)]
    classes: Count | list[str]
    shards: Annotated[list[ShardEntry], Field(min_length=1)]
    quarantined: list[Any]
    checksum: str


def checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 over the shards' SHA-256s and over what gives their bytes a meaning: the shape and the classes."""
    parts = [manifest[key] for key in ("count", "channels", "height", "width", "classes")]
    parts.append([shard["sha256"] for shard in manifest["shards"]])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def num_classes(manifest: dict[str, Any]) -> int:
    """Number of classes, 0 when unlabelled; the manifest holds their names, or their number when they have none."""
    classes = manifest["classes"]
    return len(classes) if isinstance(classes, list) else int(classes)


# ---------------------------------------------------------------- writing


class ShardWriter:
    """Writes one shard; memory is one row group. The file appears under its name only at close()."""

    def __init__(self, folder: Path, index: int, shape: tuple[int, int, int], labelled: bool) -> None:
        self.path = folder / f"shard-{index:05d}.parquet"
        self.temporary = self.path.with_name(f".{self.path.name}.tmp")
        self.count = 0
        width = shape[0] * shape[1] * shape[2]
        label = [pa.field("label", pa.int32())] if labelled else []
        self.schema = pa.schema([pa.field("image", pa.binary(width)), *label, pa.field("name", pa.string())])
        self.pixels = np.empty((max(1, GROUP_BYTES // width), width), dtype=np.uint8)
        self.labels, self.names = list[int | None](), list[str]()
        # Pixels neither repeat as whole images nor have a useful minimum: no dictionary, no statistics.
        self.file = pq.ParquetWriter(
            self.temporary,
            self.schema,
            compression="zstd",
            use_dictionary=False,
            write_statistics=["label"],
            write_page_checksum=True,  # reading on the fly checks it: the SHA-256 is of the whole file
        )

    def add(self, pixels: NDArray[np.uint8], label: int | None, name: str) -> None:
        """Add one image, uint8 [C, H, W]."""
        self.pixels[len(self.names)] = pixels.reshape(-1)
        self.labels.append(label)
        self.names.append(name)
        self.count += 1
        if len(self.names) == len(self.pixels):
            self._flush()

    def _flush(self) -> None:
        if not self.names:
            return
        rows, width = len(self.names), self.pixels.shape[1]
        image = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), rows, [None, pa.py_buffer(self.pixels[:rows].tobytes())]
        )
        label = [pa.array(self.labels, pa.int32())] if "label" in self.schema.names else []
        self.file.write_batch(
            pa.record_batch([image, *label, pa.array(self.names, pa.string())], schema=self.schema),
            row_group_size=rows,
        )
        self.labels, self.names = [], []

    def close(self) -> dict[str, Any]:
        """Publish the shard; returns its manifest entry."""
        self._flush()
        self.file.close()
        files.publish(self.temporary, self.path)
        size = self.path.stat().st_size
        return {"file": self.path.name, "count": self.count, "bytes": size, "sha256": files.sha256(self.path)}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        """Drop what was written so far, unless close() has published it."""
        self.file.close()
        self.temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------- reading one shard


def read_shard(
    path: Path, name: str, manifest: dict[str, Any], shard: dict[str, Any], images: BinaryIO | None
) -> NDArray[np.int64] | None:
    """Append a shard's pixels to `images`, if given; returns its labels [count], or None when the data set has none.

    Raises UserError naming the shard when its count, its image size or a label is not what the manifest says.
    """
    width = manifest["channels"] * manifest["height"] * manifest["width"]
    classes = num_classes(manifest)
    columns = ["image"] * (images is not None) + ["label"] * bool(classes)
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != shard["count"]:
                raise UserError(f"{name}: {file.metadata.num_rows} images where {MANIFEST} says {shard['count']}")
            if file.schema_arrow.field("image").type != pa.binary(width):
                raise UserError(f"{name}: images are not of {width} bytes, which {MANIFEST} says")
            row, labels = 0, np.empty(shard["count"], dtype=np.int64)  # not before its size is known to be right
            for batch in file.iter_batches(max(1, READ_BYTES // width), columns=columns) if columns else ():
                if images is not None:
                    _append_pixels(batch.column("image"), width, images)
                if classes:
                    labels[row : row + len(batch)] = batch.column("label").to_numpy(zero_copy_only=False)
                row += len(batch)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise UserError(f"{name}: not a shard of this format: {error}") from error
    if classes and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"{name}: labels {labels.min()} to {labels.max()} where there are {classes} classes")
    return labels if classes else None


def _append_pixels(column: pa.Array, width: int, images: BinaryIO) -> None:
    view = memoryview(column.buffers()[1])
    images.write(view[column.offset * width : (column.offset + len(column)) * width])


# ---------------------------------------------------------------- shards and disks


def decoded_bytes(manifest: dict[str, Any]) -> int:
    """How large the memory map of all images is."""
    return int(math.prod(manifest[key] for key in ("count", "channels", "height", "width")))


def free_space(folder: Path, need: int, instead: str = "") -> None:
    """Raise UserError, with what to do `instead`, when `folder` has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder}: needs {in_units(need)} free, has {in_units(free)}; {instead}ACT_RAY_CACHE names another folder"
        )


def copy_shard(files: Any, root: str, path: str, shard: dict[str, Any], to: Path) -> None:
    """Copy a shard to the file `to`. Raises UserError when its SHA-256 is not the manifest's, or it is missing."""
    with to.open("wb") as copy:
        _read_checked(files, root, path, shard, copy.write)


def check_shard(files: Any, root: str, path: str, shard: dict[str, Any]) -> None:
    """As copy_shard, where it is."""
    _read_checked(files, root, path, shard, lambda block: None)


def _read_checked(files: Any, root: str, path: str, shard: dict[str, Any], take: Callable[[bytes], object]) -> None:
    name = f"{path}/{shard['file']}"
    digest = hashlib.sha256()
    try:
        with files.open_input_stream(f"{root}/{shard['file']}") as stream:
            while block := stream.read(COPY_BYTES):
                digest.update(block)
                take(block)
    except FileNotFoundError as error:
        raise UserError(f"{name}: is missing; prepare the data set again") from error
    if digest.hexdigest() != shard["sha256"]:
        raise UserError(f"{name}: damaged: its SHA-256 is not the one in {MANIFEST}")
