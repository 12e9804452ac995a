"""Readers of the data sets people have: each streams records out of its source and extracts nothing.

A record whose image must not be used (a name that leaves its archive, a link, a member over a cap) carries a BadImage
in place of the image, so that it ends in the quarantine list under its name. A file that is damaged as a whole is a
UserError. Everything in a source is read, in name order (archives that can only be streamed: in their own order).
Labels are never left out without a word: they are read, or the user is asked, or a note says so.
"""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from act_ray.data.archives import PACKING_ERRORS, find_zip_source
from act_ray.data.arrays import find_idx_source, find_npy_source, find_npz_source, is_idx
from act_ray.data.batches import find_archive, find_batch, find_batches
from act_ray.data.folders import find_folder_source, split_folder
from act_ray.data.lmdb_files import find_lmdb_source
from act_ray.data.records import LabelChoice, Record, Source, is_image
from act_ray.data.tables import find_saved_source, find_table_source
from act_ray.data.webdataset import find_tar_source
from act_ray.errors import UserError, near

ACCEPTED = (
    "a folder of images (one sub-folder per class, or flat), Python batches of CIFAR-10, CIFAR-100 (folder or .tar.gz) "
    "or ImageNet-64, Hugging Face .parquet or save_to_disk, MNIST's idx files, LSUN's LMDB, ImageNet-64 or EDM .npz, "
    ".npy of uint8 images, an EDM/StyleGAN .zip, WebDataset .tar"
)
ANY_LABELS = LabelChoice()
NAMED_LABELS = ("Hugging Face", "WebDataset", "CIFAR-100")  # how the formats begin where --labels NAME means something


def detect(src: str | os.PathLike[str], split: str | None = None, choice: LabelChoice = ANY_LABELS) -> Source:
    """Recognise a source by its names and headers.

    split: one of the sub-folders train, val, ... of a folder, or "all" of them. Raises UserError that says what is
    there and what is accepted, or what the user has to choose.
    """
    path = Path(src)
    if not path.exists():
        other = near(path.name, os.listdir(path.parent) if path.parent.is_dir() else [])
        raise UserError(f"{path}: no such file or folder" + (f"; did you mean {path.parent / other}?" if other else ""))
    path = split_folder(path, split)
    try:
        source = _detect_folder(path, split, choice) if path.is_dir() else _detect_file(path, choice)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if choice.name is not None and not source.format.startswith(NAMED_LABELS):
        raise UserError(
            f"--labels {choice.name}: not for {source.format}; it is for Parquet's columns, .json's keys and CIFAR-100"
        )
    records = source.records if choice.wanted else lambda: (r._replace(label=None) for r in source.records())
    classes = tuple(map(_printable, source.classes)) if source.classes and choice.wanted else None
    return replace(source, path=path, records=partial(_guarded, path, records), classes=classes)


_DAMAGE = (*PACKING_ERRORS, tarfile.TarError, OSError, EOFError, ValueError, RecursionError)


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: damaged, or not what its name says: {' '.join(str(error).split())[:300]}")


def _guarded(path: Path, records: Callable[[], Iterator[Record]]) -> Iterator[Record]:
    try:
        for record in records():
            yield record if record.name.isascii() else record._replace(name=_printable(record.name))
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _printable(name: str) -> str:
    """The name with \\xff for each byte that is not UTF-8: neither JSON nor Parquet could hold that byte."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _plain(files: Iterable[Path]) -> list[Path]:
    """Sorted, without named pipes and the like: opening one would wait for a writer."""
    return sorted(file for file in files if file.is_file())


def _detect_file(path: Path, choice: LabelChoice) -> Source:
    if not path.is_file():
        raise UserError(f"{path}: is neither a plain file nor a folder; accepted: {ACCEPTED}")
    name = path.name.lower()
    if batch := find_batch(path, choice):
        return batch
    if name.endswith(".parquet"):
        return find_table_source([path], choice)
    if name.endswith(".npz"):
        return find_npz_source([path], choice)
    if name.endswith(".npy"):
        return find_npy_source([path])
    if is_idx(name):
        return find_idx_source([path], choice)
    if name.endswith(".zip"):
        return find_zip_source(path, choice)
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        with tarfile.open(path, "r|*") as archive:
            names = [member.name for member in islice(archive, 10) if member.isfile()]
        if batches := find_archive(path, names, choice):
            return batches
        return find_tar_source([path], "WebDataset tar", choice)
    if is_image(name):
        raise UserError(f"{path}: is a single image; give the folder that it is in, {path.absolute().parent}")
    raise UserError(f"{path}: found a file of another kind; accepted: {ACCEPTED}")


def _detect_folder(path: Path, split: str | None, choice: LabelChoice) -> Source:
    manifest = path / "manifest.json"
    if manifest.is_file() and "act_ray.images" in manifest.read_text(errors="replace"):
        raise UserError(f"{path}: already prepared; give it to training as data.path")
    if batches := find_batches(path, choice):
        return batches
    if saved := find_saved_source(path, choice):
        return saved
    if lmdb := find_lmdb_source(path):
        return lmdb
    if idx := _plain(file for file in [*path.glob("*"), *path.glob("raw/*")] if is_idx(file.name)):
        # torchvision leaves the packed files beside those that it unpacked
        return find_idx_source(
            [file for file in idx if file.suffix != ".gz" or file.with_suffix("") not in idx], choice
        )
    if parquet := _plain(path.rglob("*.parquet")):
        return find_table_source(parquet, choice)
    if npz := _plain(path.glob("*.npz")):
        return find_npz_source(npz, choice)
    if tars := _plain(path.glob("*.tar")):
        return find_tar_source(tars, "WebDataset tars", choice)
    if images := find_folder_source(path, split, choice):
        return images
    if npy := _plain(path.glob("*.npy")):
        return find_npy_source(npy)
    found = sorted(entry.name for entry in os.scandir(path))
    listing = f"{', '.join(found[:5])}{', ...' if len(found) > 5 else ''}" if found else "nothing"
    raise UserError(f"{path}: found {listing}; accepted: {ACCEPTED}")
