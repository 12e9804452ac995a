"""Batches of images that were published as Python pickles, read without running what a pickle may ask for.

CIFAR-10's and CIFAR-100's (Krizhevsky, 2009), and the downsampled ImageNet's (Chrabaszcz et al., 2017).
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from act_ray.data.archives import tar_files
from act_ray.data.decoding import BadImage
from act_ray.data.records import LabelChoice, Record, Source, choose_label
from act_ray.errors import UserError


@dataclass(frozen=True)
class Published:
    """How a data set's batches are called, and where their labels are.

    most: bytes of a file; base: the first label. classes: their names, None where nothing tells or `names` do: the
    fields of the file `meta` beside the batches that do, by the field of the label.
    """

    title: str
    pattern: str
    label: str = "labels"
    base: int = 0
    most: int = 256 << 20  # CIFAR's have 31 to 155 MB
    classes: tuple[str, ...] | None = None
    names: tuple[tuple[str, str], ...] = ()


CIFAR_10 = Published(
    "CIFAR-10",
    r"data_batch_\d+|test_batch",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
IMAGENET = Published("downsampled ImageNet", r"train_data_batch_\d+|val_data", base=1, most=4 << 30)  # 64x64: 1.6 GB
CIFAR_100 = Published(
    "CIFAR-100",
    r"train|test",
    label="fine_labels",
    names=(("fine_labels", "fine_label_names"), ("coarse_labels", "coarse_label_names")),
)
META = "meta"


# ---------------------------------------------------------------- where they are


def find_batches(folder: Path, choice: LabelChoice) -> Source | None:
    """The batches in a folder, or in the one that an archive of them unpacks to; None where there are none."""
    for inner in (folder, *(folder / name for name in ("cifar-10-batches-py", "cifar-100-python"))):
        names = sorted(file.name for file in inner.iterdir() if file.is_file()) if inner.is_dir() else []
        if (kind := _kind(names)) is not None:
            files = [inner / name for name in names if re.fullmatch(kind.pattern, name)]
            meta = (inner / META).read_bytes() if kind.names else b""
            return _source(kind, "batches", folder, meta, partial(_read_files, files), choice)
    return None


def find_batch(path: Path, choice: LabelChoice) -> Source | None:
    """A single batch by its name; None for another file."""
    meta = path.with_name(META)
    kind = _kind([path.name, META] if meta.is_file() else [path.name])
    if kind is None or not re.fullmatch(kind.pattern, path.name):
        return None
    return _source(kind, "batch", path, meta.read_bytes() if kind.names else b"", partial(_read_files, [path]), choice)


def find_archive(path: Path, names: list[str], choice: LabelChoice) -> Source | None:
    """cifar-10-python.tar.gz and the like; None where the first `names` of the archive are not those of batches."""
    kind = _kind([PurePosixPath(name).name for name in names])
    if kind is None:
        return None
    meta = b""
    if kind.names:
        found = tar_files(path, lambda name: kind.most if PurePosixPath(name).name == META else 0)
        meta = next((raw for _, raw in found if isinstance(raw, bytes)), b"")
    return _source(kind, "archive", path, meta, partial(_read_tar, path), choice)


def _kind(names: list[str]) -> Published | None:
    for kind in (CIFAR_10, IMAGENET):
        if any(re.fullmatch(kind.pattern, name) for name in names):
            return kind
    return CIFAR_100 if META in names and not {"train", "test"}.isdisjoint(names) else None


def _source(
    kind: Published,
    what: str,
    path: Path,
    meta: bytes,
    read: Callable[[Published, str], Iterator[Record]],
    choice: LabelChoice,
) -> Source:
    label = kind.label
    classes = kind.classes
    if kind.names:
        label = choose_label(str(path), [name for name, _ in kind.names], [kind.label], choice) or label
        fields = _load(f"{path}: {META}", io.BytesIO(meta), kind) if meta else {}
        names = fields.get(dict(kind.names)[label], [])
        if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
            raise UserError(f"{path}: {META}: no names of classes")
        classes = tuple(map(_text, names)) or None
    return Source(f"{kind.title} {what}", path, partial(read, kind, label), classes)


# ---------------------------------------------------------------- what is in them


def _read_files(files: list[Path], kind: Published, label: str) -> Iterator[Record]:
    for file in files:
        if file.stat().st_size > kind.most:
            raise UserError(f"{file}: {file.stat().st_size} bytes, over the cap of {kind.most} for a batch")
        with open(file, "rb") as content:
            yield from batch_images(str(file), content, kind, label)


def _read_tar(path: Path, kind: Published, label: str) -> Iterator[Record]:
    """One batch in memory at a time."""
    for name, content in tar_files(path, lambda n: kind.most * bool(re.fullmatch(kind.pattern, PurePosixPath(n).name))):
        if isinstance(content, BadImage):
            yield Record(name, content, None)
        else:
            yield from batch_images(f"{path}: {name}", io.BytesIO(content), kind, label)


def batch_images(name: str, file: IO[bytes], kind: Published = CIFAR_10, label: str = "labels") -> Iterator[Record]:
    """Yield (name, pixels [H, H, 3], label) of one batch; raises UserError when it is not one, or asks for code."""
    fields = _load(name, file, kind)
    try:
        data, labels = fields["data"].numpy(), [int(number) - kind.base for number in fields[label]]
        names = [_text(text) for text in fields.get("filenames", [])] or [str(i) for i in range(len(labels))]
        side = math.isqrt(data.shape[1] // 3)
        if data.shape != (len(labels), 3 * side * side) or len(names) != len(labels):
            raise ValueError(f"{data.shape} pixels, {len(labels)} labels, {len(names)} names")
    except Exception as error:  # the fields of a hostile pickle can be anything
        raise _no_batch(name, kind, error) from error
    stem = PurePosixPath(name).name
    for text, row, number in zip(names, data.reshape(-1, 3, side, side), labels, strict=True):
        yield Record(f"{stem}/{text}", row.transpose(1, 2, 0), number)


def _load(name: str, file: IO[bytes], kind: Published) -> dict[str, Any]:
    try:
        return {_text(key): value for key, value in _Batch(file, encoding="bytes").load().items()}
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # a hostile or torn pickle can raise any error from the stand-ins
        raise _no_batch(name, kind, error) from error


def _no_batch(name: str, kind: Published, error: Exception) -> UserError:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"{name}: not a batch of {kind.title} ({text})")


def _text(value: bytes | str) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Array:
    """Stands in for numpy.ndarray: keeps the state a pickle sets, and makes an array of it only once checked.

    Not even NumPy's own __setstate__ sees the file. Slots and __setstate__ on each stand-in leave a pickle nothing to
    assign to.
    """

    __slots__ = ("state",)

    def __new__(cls, *args: object) -> "_Array":
        return super().__new__(cls)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def numpy(self) -> NDArray[np.uint8]:
        """The uint8 array; raises ValueError for any other type or a length that does not fit its shape."""
        _, shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1", "B"):
            raise ValueError("pixels are not uint8")
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands in for numpy.dtype: keeps its code, as "u1"."""

    __slots__ = ("code",)

    def __init__(self, code: bytes | str, *args: object) -> None:
        self.code = _text(code)

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing to bytes."""


class _Encode:
    """Stands in for _codecs.encode, by which Python 3 writes bytes at pickle protocol 2."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Batch(pickle.Unpickler):
    """Admits plain containers, numbers, text, bytes and the stand-ins above; nothing is ever imported."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise UserError(f"refused: its pickle asks for {module}.{name}, which no batch of images does")
        return _STAND_INS[module, name]
