"""Samples of a trained model batch by batch, and the files that they go to, which are whole or absent."""

import contextlib
import math
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from act_ray import jsonfile
from act_ray.cli import require_free
from act_ray.errors import UserError
from act_ray.files import publish, sync
from act_ray.generators.generator import Generator
from act_ray.generators.sampling import draw_batch, require_finite
from act_ray.pictures import grid_image, save_png, to_picture, to_uint8

GRID_IMAGES = 256  # the first ones, of a set that may have 50,000
ABOUT = "samples.json"  # says in a folder of samples that the folder is ours
OTHER_FORMATS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".zip", ".tar")  # not written

Batch = tuple[np.ndarray, np.ndarray | None]  # images uint8 [b,C,H,W] and their labels [b], None if unconditional
Add = Callable[[np.ndarray, np.ndarray | None], None]  # takes the next batch


# ---------------------------------------------------------------------------------------------- sampling


def draw_samples(
    model: nn.Module,
    generator: Generator,
    count: int,
    *,
    batch: int,
    seed: int,
    levels: Sequence[float] = (),
    label: int | None = None,
) -> Iterator[Batch]:
    """Yield `count` samples of `model`, which is the generator's, batch by batch.

    Sample i depends on seed and batch, not on count. label: make all of this class; None: the data's frequencies.
    """
    cfg, counts = generator.cfg, generator.label_counts
    if label is not None and cfg.model.num_classes is not None:
        counts = [int(i == label) for i in range(cfg.model.num_classes)]
    device = next(model.parameters()).device
    for start in range(0, count, batch):
        images, labels = draw_batch(
            model, cfg, generator.shape, counts, start // batch, batch, device,
            seed=seed, levels=levels, first=min(batch, count - start),
        )  # fmt: skip
        require_finite(generator, images)
        yield to_uint8(images).cpu().numpy(), None if labels is None else labels.cpu().numpy()


# ---------------------------------------------------------------------------------------------- where to


def check_paths(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises UserError for mistakes in where to write, before anything is computed."""
    for path in paths:
        if path.suffix.lower() in (".png", ".npz"):
            require_free(path, overwrite)
        elif path.suffix.lower() in OTHER_FORMATS:
            raise UserError(f"--out {path}: must end in .png or .npz, or name a folder")
        else:
            _require_free_folder(path, overwrite)
    for path in paths:
        for other in paths:
            if path is not other and path.resolve() == other.resolve():
                raise UserError(f"--out {path}: is named twice")
            if path is not other and path.resolve().is_relative_to(other.resolve()):
                raise UserError(f"--out {path}: lies in {other}, which is to hold samples alone")


def open_output(
    path: Path, count: int, shape: Sequence[int], about: dict[str, Any], overwrite: bool
) -> AbstractContextManager[Add]:
    """What writes the kind of file, or the folder, that a path names; nothing is opened yet."""
    if path.suffix.lower() == ".png":
        return grid_file(path)
    if path.suffix.lower() == ".npz":
        return npz_file(path, count, shape)
    return png_folder(path, about, overwrite)


# ---------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def grid_file(path: Path) -> Iterator[Add]:
    """A picture of the first GRID_IMAGES samples, as a run's own: 8 columns, more above 64 images."""
    kept: list[np.ndarray] = []

    def add(images: np.ndarray, labels: np.ndarray | None) -> None:
        kept.append(images[: GRID_IMAGES - sum(map(len, kept))])

    _make_parent(path)
    yield add
    images = np.concatenate(kept)
    picture = grid_image(images, columns=max(8, math.isqrt(len(images) - 1) + 1))
    save_png(path, picture)


@contextlib.contextmanager
def npz_file(path: Path, count: int, shape: Sequence[int]) -> Iterator[Add]:
    """The layout that ADM's evaluation suite reads: arr_0 uint8 [n,H,W,C], and labels arr_1 where there are any.

    Written image by image: np.savez would need all of them in memory.
    """
    channels, height, width = shape
    temporary, classes = path.with_name(f".{path.name}.tmp"), list[np.ndarray]()
    _make_parent(path)
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
                np.lib.format.write_array_header_1_0(file, header)

                def add(images: np.ndarray, labels: np.ndarray | None) -> None:
                    file.write(images.transpose(0, 2, 3, 1).tobytes())
                    if labels is not None:
                        classes.append(labels)

                yield add
            if classes:
                with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                    np.lib.format.write_array(file, np.concatenate(classes), allow_pickle=False)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def png_folder(path: Path, about: dict[str, Any], overwrite: bool = False) -> Iterator[Add]:
    """A folder of 000000.png, 000001.png, ..., with labels.json where there are labels and `about` in samples.json.

    With overwrite it replaces an earlier one. Raises UserError for a folder that holds anything else: whoever counts or
    scores the images in it must not meet others.
    """
    path = path.resolve()
    temporary, written, classes = path.with_name(f".{path.name}.tmp"), 0, list[int]()
    _require_free_folder(path, overwrite)
    _make_parent(path)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()

    def add(images: np.ndarray, labels: np.ndarray | None) -> None:
        nonlocal written
        for image in images:
            to_picture(image).save(temporary / f"{written:06d}.png")
            written += 1
        classes.extend([] if labels is None else labels.tolist())

    try:
        yield add
        if classes:
            named = {f"{i:06d}.png": label for i, label in enumerate(classes)}
            (temporary / "labels.json").write_text(jsonfile.text(named))
        (temporary / ABOUT).write_text(jsonfile.text({**about, "images": written}))
        _require_free_folder(path, overwrite)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)  # not each of 50,000 files flushed: that takes minutes
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_free_folder(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; name a new folder")
    names = {entry.name for entry in folder.iterdir()}
    other = sorted(name for name in names if not re.fullmatch(r"\d{6,}\.png|labels\.json|samples\.json", name))
    if names and (other or ABOUT not in names):  # without it, even 000000.png is somebody else's
        first = (other or sorted(names))[0]
        raise UserError(f"--out {folder}: holds other files ({first}); name a new folder or an empty one")
    if names and not overwrite:
        raise UserError(f"--out {folder}: holds samples already; name another folder, or --overwrite them")


def _make_parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
