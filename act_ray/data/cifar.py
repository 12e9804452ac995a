"""CIFAR-10's Python batches, which are pickles, read without running what a pickle may ask for."""

import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from act_ray.data.archives import tar_files
from act_ray.data.decoding import BadImage
from act_ray.data.records import Record
from act_ray.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MAX_BATCH_BYTES = 256 << 20  # a real batch has 31 MB


def is_batch(name: str) -> bool:
    """Whether a file name is that of a batch of images: data_batch_1 .. data_batch_5, test_batch."""
    return re.fullmatch(r"data_batch_\d+|test_batch", PurePosixPath(name).name) is not None


def read_batches(files: list[Path]) -> Iterator[Record]:
    """Yield the images of CIFAR-10 batch files."""
    for file in files:
        if file.stat().st_size > MAX_BATCH_BYTES:
            raise UserError(f"{file}: {file.stat().st_size} bytes, over the cap of {MAX_BATCH_BYTES} for a batch")
        yield from batch_images(str(file), file.read_bytes())


def read_tar(path: Path) -> Iterator[Record]:
    """Yield the images of cifar-10-python.tar.gz, one batch in memory at a time."""
    for name, content in tar_files(path, lambda name: MAX_BATCH_BYTES if is_batch(name) else 0):
        if isinstance(content, BadImage):
            yield Record(name, content, None)
        else:
            yield from batch_images(f"{path}: {name}", content)


def batch_images(name: str, raw: bytes) -> Iterator[Record]:
    """Yield (name, pixels [32, 32, 3], label) of one batch; raises UserError when it is not one, or asks for code."""
    try:
        content = _Batch(io.BytesIO(raw), encoding="bytes").load()
        fields = {_text(key): value for key, value in content.items()}
        data, labels = fields["data"].numpy(), [int(label) for label in fields["labels"]]
        names = [_text(file) for file in fields.get("filenames", [])] or [str(i) for i in range(len(labels))]
        if data.shape != (len(labels), 3072) or len(names) != len(labels):
            raise ValueError(f"{data.shape} pixels, {len(labels)} labels, {len(names)} names")
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # a hostile or torn pickle can raise any error from the stand-ins
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name}: not a CIFAR-10 batch ({text})") from error
    stem = PurePosixPath(name).name
    for file, row, label in zip(names, data.reshape(-1, 3, 32, 32), labels, strict=True):
        yield Record(f"{stem}/{file}", row.transpose(1, 2, 0), label)


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
            raise UserError(f"refused: its pickle asks for {module}.{name}, which no CIFAR-10 batch does")
        return _STAND_INS[module, name]
