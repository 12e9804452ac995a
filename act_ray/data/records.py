"""What a reader of a data set yields, and which of the labels that it finds are wanted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from act_ray.data.decoding import BadImage, Raw
from act_ray.errors import UserError, nearest

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
# Columns of a Parquet file, or keys of a WebDataset's .json, that are taken for labels.
LABEL_NAMES = (
    "label", "labels", "fine_label", "coarse_label", "cls", "class", "class_id", "class_name", "category", "target",
)  # fmt: skip


class Record(NamedTuple):
    """One image as its source holds it; label None when the source gives it none."""

    name: str
    image: Raw
    label: int | None


@dataclass(frozen=True)
class LabelChoice:
    """What the user says about labels.

    name: the Parquet column or .json key that holds them; None: the only one that looks like it. wanted: False leaves
    all labels out.
    """

    name: str | None = None
    wanted: bool = True


@dataclass(frozen=True)
class Source:
    """A recognised source; `records()` starts a new pass over it.

    count: None when only a pass would tell. note: a line about labels that it might have and that are not read.
    """

    format: str
    path: Path
    records: Callable[[], Iterator[Record]]
    classes: tuple[str, ...] | None = None
    count: int | None = None
    note: str | None = None


def choose_label(where: str, fields: Sequence[str], alike: Sequence[str], choice: LabelChoice) -> str | None:
    """The field that is the label, or None. Raises UserError for a name that is not there, or where several could be.

    fields: those that can be chosen by name. alike: those that look like labels.
    """
    if not choice.wanted:
        return None
    if choice.name is not None:
        if choice.name not in fields:
            raise UserError(f"--labels {choice.name}: not in {where}; {nearest(choice.name, fields)}")
        return choice.name
    if len(alike) > 1:
        choices = ", ".join(f"--labels {name}" for name in alike)
        raise UserError(f"{where}: {' and '.join(alike)} could each be the label; choose one of {choices}, --no-labels")
    return alike[0] if alike else None


def unread_note(where: str, fields: Sequence[str]) -> str | None:
    """The note of a source without labels whose other fields might hold them."""
    if not fields:
        return None
    few = ", ".join(fields[:5]) + (", ..." if len(fields) > 5 else "")
    return f"{where}: nothing looks like a label, so there are none; --labels NAME takes one of {few}"


def is_image(name: str) -> bool:
    """Whether a name ends like an image's and is no hidden file (such as macOS's ._copies)."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def labelled(name: str, image: Raw, label: object) -> Record:
    """The record; a BadImage in place of one whose label is no whole number."""
    if label is None or (isinstance(label, int) and not isinstance(label, bool)):
        return Record(name, image, label)
    return Record(name, BadImage("its label is not a whole number"), None)
