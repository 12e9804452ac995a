"""A folder of images: one sub-folder per class, or flat, or one such folder for each of train, val and test."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from act_ray.data.archives import edm_labels
from act_ray.data.decoding import MAX_BYTES, BadImage, Raw
from act_ray.data.records import LabelChoice, Record, Source, is_image, labelled
from act_ray.errors import UserError, nearest

SPLITS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"])
TABLES = frozenset([".csv", ".tsv", ".json", ".jsonl", ".parquet"])  # files that may hold labels
ALL = "all"


def find_folder_source(root: Path, split: str | None, choice: LabelChoice) -> Source | None:
    """The images under `root`; None where there are none. Raises UserError where the user has to choose."""
    tops = image_folders(root)
    splits = [name for name in tops if name.lower() in SPLITS]
    if not tops and next(read_folder(root, [""]), None) is None:
        return None
    if not splits or len(splits) < len(tops):
        if not tops and choice.wanted:
            _refuse_tables(root)
        splits = [""]
    elif split is None:
        choices = ", ".join(f"--split {name}" for name in splits)
        raise UserError(
            f"{root}: {' and '.join(splits)} look like parts of one data set, not like classes; "
            f"choose one of {choices}, --split {ALL}"
        )
    return Source("image folder", root, lambda: read_folder(root, splits), folder_classes(root, splits))


def split_folder(root: Path, split: str | None) -> Path:
    """Where --split leads: the sub-folder of its name, or `root` for none and for all of them."""
    if split is None or split == ALL:
        return root
    if not root.is_dir():
        raise UserError(f"--split {split}: {root} is no folder; --only takes a part of a file")
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    if split not in folders:
        raise UserError(f"--split {split}: no such folder in {root}; {nearest(split, [*folders, ALL])}")
    return root / split


def _refuse_tables(root: Path) -> None:
    """A flat folder with a table beside the images has labels that are not read: never without a word."""
    tables = sorted(
        file.name for file in root.iterdir() if file.suffix.lower() in TABLES and file.name != "dataset.json"
    )
    if tables:
        raise UserError(
            f"{root}: {tables[0]} beside the images may hold labels, and none are read from it; "
            "sort the images into a folder per class, or give --no-labels"
        )


def read_folder(root: Path, splits: Sequence[str]) -> Iterator[Record]:
    """Yield the images under `root`; the label is the position of the class folder's name among the sorted ones.

    splits: folders of class folders, [""] for `root` itself. A flat folder has no labels, and beside class folders an
    image at the top is refused. An unpacked EDM folder keeps the labels of its dataset.json. Links are followed: they
    are the user's own.
    """
    classes = folder_classes(root, splits) or ()
    index = root / "dataset.json"
    labels = edm_labels(index.read_bytes()) if index.is_file() else None
    for split in splits:
        tops = image_folders(root / split) if classes else []
        for top in tops or [""]:
            for folder, folders, files in os.walk(root / split / top):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for file in sorted(filter(is_image, files)):
                    full = Path(folder, file)
                    name = full.relative_to(root).as_posix()
                    label: object = labels.get(name) if labels is not None else classes.index(top) if top else None
                    yield labelled(name, _file_bytes(full), label)
        if tops:
            for file in sorted(filter(is_image, os.listdir(root / split))):
                name = (PurePosixPath(split) / file).as_posix()
                yield Record(name, BadImage("lies beside the class folders, so it has no label"), None)


def folder_classes(root: Path, splits: Sequence[str]) -> tuple[str, ...] | None:
    """Sorted names of the class folders; None for a flat folder."""
    return tuple(sorted({name for split in splits for name in image_folders(root / split)})) or None


def image_folders(root: Path) -> list[str]:
    """Sorted names of the sub-folders that hold an image; none of a folder that dataset.json labels."""
    if (root / "dataset.json").is_file():
        return []
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    return [name for name in folders if any(any(map(is_image, files)) for _, _, files in os.walk(root / name))]


def _file_bytes(path: Path) -> Raw:
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return BadImage("is not a plain file")
            return file.read(MAX_BYTES + 1)  # one over the cap is enough for the decoder to refuse it
    except OSError as error:
        return BadImage(f"cannot be read: {error.strerror}")
