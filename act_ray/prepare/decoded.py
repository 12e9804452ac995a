"""Records to pixels, in order, on a few threads."""

import hashlib
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np

from act_ray.data import decoding
from act_ray.data.decoding import BadImage, Pixels
from act_ray.data.records import Record

GROUP_IMAGES, GROUP_BYTES = 256, 64 << 20  # encoded images held at once for the decoding threads

Results = Iterator[tuple[Record, Pixels | BadImage]]


class ImagePlan(NamedTuple):
    """What every image becomes, by the first good one: [channels, size, size], with a label or without."""

    size: int
    channels: int
    labelled: bool


def decode_one(plan: ImagePlan, resize: bool, anywhere: bool, classes: int, record: Record) -> Pixels | BadImage:
    """The pixels [C, H, W], or why the record is quarantined.

    anywhere: the square is cropped where a hash of the name says, the same at each call; else at the centre.
    """
    size, channels, labelled = plan
    at = int.from_bytes(hashlib.sha256(record.name.encode()).digest()[:4]) / (1 << 32) if anywhere else None
    try:
        pixels = decoding.decode(record.image, size, channels, resize, at)
    except BadImage as bad:
        return bad
    if (record.label is not None) != labelled:
        return BadImage("has no label, unlike the first image" if labelled else "has a label, unlike the first image")
    if record.label is not None and not 0 <= record.label < classes:
        return BadImage(f"label {record.label} is outside 0 to {classes - 1}")
    return pixels


def decoded(
    records: Iterator[Record], decode: partial[Pixels | BadImage]
) -> Generator[tuple[Record, Pixels | BadImage]]:
    """Decode in order on a few threads (Pillow releases the interpreter lock), a bounded group at a time.

    To be closed where it is not read to its end, or its threads outlive it.
    """
    workers = min(8, len(os.sched_getaffinity(0)))

    def decode_slice(part: list[Record]) -> list[Pixels | BadImage]:
        return [decode(record) for record in part]

    with ThreadPoolExecutor(workers) as pool:
        for group in _groups(records):
            step = -(-len(group) // workers)  # one task per thread: a task costs as much as a small image
            parts = [group[i : i + step] for i in range(0, len(group), step)]
            yield from zip(group, chain.from_iterable(pool.map(decode_slice, parts)), strict=True)


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    group, size = list[Record](), 0
    for record in records:
        group.append(record)
        image = record.image
        size += image.nbytes if isinstance(image, np.ndarray) else 0 if isinstance(image, BadImage) else len(image)
        if len(group) == GROUP_IMAGES or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
