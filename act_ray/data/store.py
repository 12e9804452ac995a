"""The one format training reads, on disk: Parquet shards of raw uint8 pixels under a manifest.json.

    shard-00000.parquet ...  image: fixed_size_binary(C*H*W), CHW; label: int32, absent when unlabelled; name: string
    manifest.json            written last: without it, or without "complete": true, nothing here is a data set

Parquet, because every tool reads it; decoded once per node to a memory map, because gathering a batch from that is a
hundred times faster than decoding.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from act_ray import files
from act_ray.errors import UserError

FORMAT, VERSION = "act_ray.images", 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
GROUP_BYTES = 8 << 20  # pixels per Parquet row group, hence the writer's and the reader's memory


# ---------------------------------------------------------------- manifest


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
            self.temporary, self.schema, compression="zstd", use_dictionary=False, write_statistics=["label"]
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
    path: Path, name: str, manifest: dict[str, Any], shard: dict[str, Any], images: BinaryIO
) -> NDArray[np.int64] | None:
    """Append a shard's pixels to `images`; returns its labels [count], or None when the data set has none.

    Raises UserError naming the shard when its count, its image size or a label is not what the manifest says.
    """
    width = manifest["channels"] * manifest["height"] * manifest["width"]
    classes = num_classes(manifest)
    labels = np.empty(shard["count"], dtype=np.int64)
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != shard["count"]:
                raise UserError(f"{name}: {file.metadata.num_rows} images where {MANIFEST} says {shard['count']}")
            if file.schema_arrow.field("image").type != pa.binary(width):
                raise UserError(f"{name}: images are not of {width} bytes, which {MANIFEST} says")
            row = 0
            for batch in file.iter_batches(
                max(1, GROUP_BYTES // width), columns=["image", "label"][: 1 + bool(classes)]
            ):
                _append_pixels(batch.column("image"), width, images)
                if classes:
                    labels[row : row + len(batch)] = batch.column("label").to_numpy(zero_copy_only=False)
                row += len(batch)
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{name}: not a shard of this format: {error}") from error
    if classes and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"{name}: labels {labels.min()} to {labels.max()} where there are {classes} classes")
    return labels if classes else None


def _append_pixels(column: pa.Array, width: int, images: BinaryIO) -> None:
    view = memoryview(column.buffers()[1])
    images.write(view[column.offset * width : (column.offset + len(column)) * width])


def free_space(folder: Path, need: int) -> None:
    """Raise UserError when `folder` has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(f"{folder}: needs {need >> 20} MiB free, has {free >> 20} (ACT_RAY_CACHE names another folder)")
