"""WebDataset tars: `key.jpg`, and its label in `key.cls` (a number or a name) or under a key of `key.json`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from act_ray import jsonfile
from act_ray.data.archives import tar_files
from act_ray.data.decoding import MAX_BYTES, BadImage, Raw
from act_ray.data.records import (
    LABEL_NAMES,
    LabelChoice,
    Record,
    Source,
    choose_label,
    is_image,
    labelled,
    unread_note,
)
from act_ray.errors import UserError

MAX_CLS_BYTES, MAX_LABEL_JSON_BYTES = 1 << 10, 1 << 20
UNREADABLE = "unreadable"  # in place of a label, for a record that must not pass as unlabelled

Content = bytes | BadImage


@dataclass(frozen=True)
class LabelFile:
    """Where the labels are: .cls, or with a key, .json. positions: of the classes by name, where labels are text."""

    key: str | None = None
    positions: dict[str, int] | None = None

    @property
    def suffix(self) -> str:
        return ".cls" if self.key is None else ".json"

    def value(self, content: Content) -> object:
        """The label as the file says it: an int, text, None for JSON without the key, or UNREADABLE."""
        if isinstance(content, BadImage):
            return UNREADABLE
        if self.key is None:
            text = content.strip().decode(errors="replace")
            return int(text) if text.isdigit() and self.positions is None else text
        fields = _fields(content)
        return UNREADABLE if fields is None else fields.get(self.key)

    def label(self, content: Content | None) -> object:
        """The position of the class; None without any label."""
        value = None if content is None else self.value(content)
        return value if self.positions is None or value is None else self.positions.get(str(value), UNREADABLE)


def find_tar_source(files: Sequence[Path], format: str, choice: LabelChoice) -> Source:
    """Labels are where the first image has them; names of classes, in sorted order, take a pass over all labels."""
    found, note = _find_label_file(files, choice)
    if found is None:
        return Source(format, files[0], lambda: read_tars(files, LabelFile()), note=note)
    first = next((value for value in _values(files, found) if value not in (None, UNREADABLE)), None)
    if not isinstance(first, str):
        return Source(format, files[0], lambda: read_tars(files, found))
    # An empty dict of positions: from here on .cls holds names, also where they look like numbers.
    text = LabelFile(found.key, {})
    classes = sorted({str(value) for value in _values(files, text) if value is not None and value != UNREADABLE})
    whole = LabelFile(found.key, {name: position for position, name in enumerate(classes)})
    return Source(format, files[0], lambda: read_tars(files, whole), tuple(classes))


def _find_label_file(files: Sequence[Path], choice: LabelChoice) -> tuple[LabelFile | None, str | None]:
    """By the first sample that has an image; and a note where it might have labels and none are read."""
    if not choice.wanted:
        return None, None
    for images, beside in _samples(files, (".cls", ".json")):
        if not images:
            continue
        if choice.name is None and ".cls" in beside:
            return LabelFile(), None
        fields = _fields(beside.get(".json", b"{}")) or {}
        plain = [name for name, value in fields.items() if isinstance(value, int | str)]
        where = f"the .json of {files[0]}"
        key = choose_label(where, plain, [name for name in LABEL_NAMES if name in fields], choice)
        if key is not None and key not in plain:
            raise UserError(
                f"{where}: its {key} is no number and no text, so no label; choose --labels NAME or --no-labels"
            )
        if key is None and not plain and "/" in images[0][0]:
            return (
                None,
                f"{files[0]}: no .cls beside the images, so no labels; folders in a tar are not taken for classes",
            )
        return (None, unread_note(where, plain)) if key is None else (LabelFile(key), None)
    return None, None


def _fields(content: Content) -> dict[str, object] | None:
    try:
        fields = None if isinstance(content, BadImage) else jsonfile.parse(content)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _values(files: Sequence[Path], where: LabelFile) -> Iterator[object]:
    """What the labels' files say, without reading an image."""
    for _, beside in _samples(files, (where.suffix,), images=False):
        if where.suffix in beside:
            yield where.value(beside[where.suffix])


def read_tars(files: Sequence[Path], where: LabelFile) -> Iterator[Record]:
    """Yield the images."""
    for images, beside in _samples(files, (where.suffix,)):
        label = where.label(beside.get(where.suffix))
        yield from (labelled(name, raw, label) for name, raw in images)


def _samples(
    files: Sequence[Path], suffixes: tuple[str, ...], images: bool = True
) -> Iterator[tuple[list[tuple[str, Raw]], dict[str, Content]]]:
    """Yield the images of a key, and the files of these suffixes beside them; members of one key lie together."""
    for path in files:
        key, pictures, beside = "", list[tuple[str, Raw]](), dict[str, Content]()
        for name, content in tar_files(path, _limit(suffixes, images)):
            folder, _, base = name.rpartition("/")
            if (new := f"{folder}/{base.partition('.')[0]}") != key:
                yield pictures, beside
                key, pictures, beside = new, [], {}
            if is_image(name):
                pictures.append((name, content))
            else:
                beside[PurePosixPath(name).suffix] = content
        yield pictures, beside


def _limit(suffixes: tuple[str, ...], images: bool) -> Callable[[str], int]:
    caps = {suffix: MAX_CLS_BYTES if suffix == ".cls" else MAX_LABEL_JSON_BYTES for suffix in suffixes}
    return lambda name: MAX_BYTES * images if is_image(name) else caps.get(PurePosixPath(name).suffix, 0)
