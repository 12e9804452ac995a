"""Looks at a data set before it is prepared: how many images, how large, of which classes, what is wrong with some."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from act_ray.data import decoding, formats
from act_ray.data.decoding import BadImage, Raw
from act_ray.data.folders import SPLITS
from act_ray.data.records import LabelChoice, Source
from act_ray.errors import UserError
from act_ray.progress_bar import ProgressBar

MOST = 20_000  # images that are looked at; of a larger set the first ones
COLOURS = 200  # images whose colours are compared
SAME = 2  # of 255, by which the channels of a grey image that was saved in colour may differ
SPREAD = 1.02  # sides that differ by less are the same

Say = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    """What there is.

    sides: the shorter side of an image in pixels at 5%, half and 95% of the images. same: all are squares of one size.
    labels: images of each class among those seen. broken: (name, why), those seen. whole: all were seen.
    """

    format: str
    seen: int
    whole: bool
    sides: tuple[int, int, int]
    same: bool
    channels: int
    labels: tuple[int, ...]
    broken: tuple[tuple[str, str], ...]
    duplicates: int


def recognise(src: str, split: str | None, choice: LabelChoice) -> tuple[Source, str | None, LabelChoice, str | None]:
    """The source, the split and labels that were taken, and what was decided where `prepare` would ask; else None.

    Of train, val and test the training images are taken; labels that could be several things are left out. Raises
    UserError for what is no data set at all.
    """
    try:
        return formats.detect(src, split, choice), split, choice, None
    except UserError as error:
        asked = error
    folder = Path(src)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    training = next((name for name in names if name.lower() in SPLITS and name.lower().startswith("train")), None)
    splits = [split] if split is not None or training is None else [training]
    for part, labels in ((part, labels) for labels in (choice, LabelChoice(wanted=False)) for part in splits):
        try:
            source = formats.detect(src, part, labels)
        except UserError:
            continue
        taken = [f"--split {part}"] * (part != split) + ["--no-labels"] * (labels.wanted != choice.wanted)
        return source, part, labels, f"{' '.join(taken)} is taken: {asked}"
    raise asked


def look(source: Source, only_grey: bool, say: Say = lambda line: None) -> Look:
    """Decode up to 20,000 images. Raises UserError where none can be used."""
    sides, shapes, labels = list[int](), Counter[tuple[int, int]](), Counter[int]()
    broken, hashes, duplicates, grey, seen = list[tuple[str, str]](), set[bytes](), 0, True, 0
    whole = True
    with ProgressBar("looking", min(source.count or MOST, MOST), "images", say) as progress:
        for record in source.records():
            if seen == MOST:
                whole = False
                break
            seen += 1
            progress.advance(1)
            try:
                height, width, channels = decoding.probe(record.image)
            except BadImage as bad:
                broken.append((record.name, bad.reason))
                continue
            sides.append(min(height, width))
            shapes[height, width] += 1
            if record.label is not None:
                labels[record.label] += 1
            if grey and channels != 1 and len(sides) <= COLOURS:
                grey = _is_grey(record.image)
            digest = _digest(record.image)
            duplicates += digest in hashes
            hashes.add(digest)
    if not sides:
        raise UserError(f"{source.path}: no image can be used" + (f"; {': '.join(broken[0])}" if broken else ""))
    low, middle, high = (int(np.percentile(sides, share, method="lower")) for share in (5, 50, 95))
    (height, width), count = shapes.most_common(1)[0]
    same = height == width and count >= len(sides) / SPREAD
    return Look(
        source.format, seen, whole, (low, middle, high), same, 1 if grey or only_grey else 3,
        tuple(labels[label] for label in sorted(labels)), tuple(broken), duplicates,
    )  # fmt: skip


def _is_grey(image: Raw) -> bool:
    """Whether an image in colour has none."""
    pixels = decoding.decode(image, 16, 3).astype(int)
    return bool(np.ptp(pixels, axis=0).max() <= SAME)


def _digest(image: Raw) -> bytes:
    return hashlib.sha256(image.tobytes() if isinstance(image, np.ndarray) else image).digest()  # type: ignore[arg-type]


def described(found: Look) -> list[str]:
    """What was found, a line each, for people."""
    low, middle, high = found.sides
    sides = f"{middle}x{middle}" if found.same else f"{low} to {high} pixels at the shorter side (half: {middle})"
    lines = [f"{found.seen:,} images{'' if found.whole else ' looked at, of more'}: {found.format}; {sides}; "
             f"{'grey' if found.channels == 1 else 'colour'}"]  # fmt: skip
    if found.labels:
        lines.append(f"{len(found.labels)} classes of {min(found.labels):,} to {max(found.labels):,} images")
    if found.broken:
        name, reason = found.broken[0]
        lines.append(f"{len(found.broken):,} cannot be used and are left out, such as {name}: {reason}")
    if found.duplicates:
        lines.append(f"{found.duplicates:,} are there more than once: a model repeats those more often")
    return lines
