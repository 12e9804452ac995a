"""Small images, and one source of each accepted format made of them."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

N, SIDE = 10, 8


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def random_pixels() -> np.ndarray:
    """uint8 [10, 8, 8, 3]."""
    return np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


def labels_in_turn() -> list[int]:
    return [i % 3 for i in range(N)]


def make_folder(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (path / f"class{label}").mkdir(parents=True, exist_ok=True)
        (path / f"class{label}" / f"{i:03d}.png").write_bytes(png(image))
    return path


def make_flat(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    path.mkdir(parents=True)
    for i, image in enumerate(pixels):
        (path / f"{i:03d}.png").write_bytes(png(image))
    (path / "notes.txt").write_text("not an image")
    return path


def cifar_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as the original ones are: protocol 2, rows of planar 32x32 pixels."""
    rows = pixels.repeat(32 // SIDE, axis=1).repeat(32 // SIDE, axis=2).transpose(0, 3, 1, 2).reshape(len(pixels), 3072)
    names = [f"{i}.png".encode() for i in range(len(pixels))]
    return pickle.dumps({b"data": rows, b"labels": labels, b"filenames": names}, protocol=2)


def make_cifar(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    path.mkdir(parents=True)
    (path / "data_batch_1").write_bytes(cifar_batch(pixels[:6], labels[:6]))
    (path / "test_batch").write_bytes(cifar_batch(pixels[6:], labels[6:]))
    (path / "batches.meta").write_bytes(b"never read")
    return path


def make_cifar_100(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    folder = path / "cifar-100-python"
    folder.mkdir(parents=True)
    names = {b"fine_label_names": [b"a", b"b", b"c"], b"coarse_label_names": [b"x", b"y"]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    rows = pixels.transpose(0, 3, 1, 2).reshape(N, -1)
    for part, take in (("test", slice(0, 4)), ("train", slice(4, N))):
        fields = {b"data": rows[take], b"fine_labels": labels[take], b"coarse_labels": [i % 2 for i in labels[take]]}
        (folder / part).write_bytes(pickle.dumps(fields, protocol=2))
    return path


def make_imagenet_batches(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    """As the downsampled ImageNet's are: protocol 3, labels from 1 on, the mean image beside the data."""
    path.mkdir(parents=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(N, -1)
    for part, take in (("train_data_batch_1", slice(0, 6)), ("val_data", slice(6, N))):
        fields = {"data": rows[take], "labels": [i + 1 for i in labels[take]], "mean": rows.mean(0)}
        (path / part).write_bytes(pickle.dumps(fields, protocol=3))
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_cifar_tar(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    batches = {"readme.html": b"", "data_batch_1": cifar_batch(pixels, labels)}
    return tar_of(path.with_suffix(".tar.gz"), {f"cifar-10-batches-py/{name}": raw for name, raw in batches.items()})


def make_parquet(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    path.mkdir(parents=True)
    feature = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    for part, rows in (("train-0", range(6)), ("train-1", range(6, N))):
        images = [{"bytes": png(pixels[i]), "path": f"{i}.png"} for i in rows]
        table = pa.table({"image": images, "label": [labels[i] for i in rows]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
        pq.write_table(table, path / f"{part}.parquet", row_group_size=4)
    return path


def make_saved(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    """As datasets' save_to_disk writes them."""
    path.mkdir(parents=True)
    feature = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    files = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, rows in zip(files, (range(6), range(6, N)), strict=True):
        images = [{"bytes": png(pixels[i]), "path": None} for i in rows]
        table = pa.table({"image": images, "label": [labels[i] for i in rows]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
        with pa.ipc.new_stream(path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    return path


def make_lmdb(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    """As LSUN publishes a category: a key that means nothing, and an encoded image; WebP, here without loss."""
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for i, image in enumerate(pixels):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "WEBP", lossless=True)
            transaction.put(f"{i:040x}".encode(), file.getvalue())
    return path


def make_npy(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    np.save(path.with_suffix(".npy"), pixels)
    return path.with_suffix(".npy")


def make_planar_npy(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    path.mkdir(parents=True)
    np.save(path / "a.npy", pixels[:4].transpose(0, 3, 1, 2))
    np.save(path / "b.npy", pixels[4:].transpose(0, 3, 1, 2))
    return path


def make_imagenet(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    path.mkdir(parents=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(N, -1)
    for part, take in (("1", slice(0, 6)), ("2", slice(6, N))):
        np.savez(path / f"train_data_batch_{part}.npz", data=rows[take], labels=np.array(labels[take]) + 1)
    return path


def make_arr0(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), pixels, np.array(labels))
    return path.with_suffix(".npz")


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_zip(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    names = [f"00000/img{i:08d}.png" for i in range(N)]
    index = json.dumps({"labels": [[name, label] for name, label in zip(names, labels, strict=True)]})
    images = {name: png(image) for name, image in zip(names, pixels, strict=True)}
    return zip_of(path.with_suffix(".zip"), {**images, "dataset.json": index.encode()})


def make_webdataset(path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    members = {}
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        members |= {f"s/{i:03d}.cls": f"{label}\n".encode(), f"s/{i:03d}.json": b"{}", f"s/{i:03d}.png": png(image)}
    return tar_of(path.with_suffix(".tar"), members)


MAKERS: list[Callable[[Path, np.ndarray, list[int]], Path]] = [
    make_folder,
    make_flat,
    make_cifar,
    make_cifar_tar,
    make_parquet,
    make_imagenet,
    make_arr0,
    make_zip,
    make_webdataset,
    make_cifar_100,
    make_imagenet_batches,
    make_saved,
    make_lmdb,
    make_npy,
    make_planar_npy,
]
UNLABELLED = (make_flat, make_lmdb, make_npy, make_planar_npy)
