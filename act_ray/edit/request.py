"""What the editing tasks share: images and masks from files, a model's results for them, the pictures written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from act_ray.cli import require_free
from act_ray.core.consistency import Preconditioned
from act_ray.core.noise import Noise
from act_ray.core.options import Schedule
from act_ray.data.decoding import MAX_BYTES, BadImage, decode, probe
from act_ray.device import best_device
from act_ray.errors import UserError
from act_ray.generators.class_names import parse_label
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.reading import read_generator
from act_ray.generators.sampling import require_finite
from act_ray.pictures import from_uint8, grid_image, save_png, to_picture, to_uint8

COMPARE_SIDE = 96  # pixels, to which small images are enlarged side by side
MASK_COLOUR = (86, 180, 233)  # light blue, which grey images do not have

# f, images [B,C,H,W] in [-1, 1], noise, labels [B] -> edited images
Task = Callable[[Preconditioned, Tensor, Noise, Tensor | None], Tensor]


@dataclass(frozen=True)
class EditRequest:
    """One call of the verb."""

    generator: Generator
    device: torch.device
    out: Path
    images: tuple[Path, ...]
    samples: int  # results per image
    seed: int
    label: int | None

    @property
    def channels(self) -> int:
        return self.generator.shape[0]

    @property
    def size(self) -> int:
        return self.generator.shape[1]

    @property
    def schedule(self) -> Schedule:
        return self.generator.schedule


def open_request(
    task: str,
    location: str,
    *,
    out: Path | None,
    overwrite: bool,
    label: str | None,
    gpu: bool | None,
    images: tuple[Path, ...] = (),
    count: int | None = None,
    samples: int = 1,
    seed: int = 0,
    **model: Any,
) -> EditRequest:
    """Read the model and check what was asked of it. Raises UserError.

    count: of all results, default `samples` of each. model: keywords of read_generator.
    """
    out = out or Path(f"{task}.png")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: must end in .png")
    written, compare = output_paths(out, count or len(images) * samples)
    for path in (*written, compare):
        if any(image.resolve() == path.resolve() for image in images):
            raise UserError(f"--out {out}: would replace the image {path}; name another file")
        require_free(path, overwrite)
    generator = read_generator(location, **model)
    require_editable(task, generator, label)
    number = parse_label(generator, label)
    return EditRequest(generator, best_device(gpu), out, images, samples, seed, number)


def require_editable(task: str, generator: Generator, label: str | None) -> None:
    """Raises UserError for a network that cannot edit images, or that needs to be told their class."""
    if generator.kind is Kind.DENOISER:
        raise UserError(f"{task}: {generator.origin} is a denoiser; give a consistency model")
    if generator.shape[0] not in (1, 3):
        raise UserError(
            f"{task}: {generator.origin} makes images of {generator.shape[0]} channels; only 1 or 3 can be edited"
        )
    classes = generator.cfg.model.num_classes
    if label is None and classes is not None:
        raise UserError(f"{task}: {generator.origin} is class-conditional; give --label 0 to {classes - 1}")


def check_level(request: EditRequest, option: str, level: float) -> None:
    """Raises UserError for a noise level that the model does not know."""
    low, high = request.schedule.t_min, request.schedule.t_max
    if not low < level <= high:
        raise UserError(f"{option} {level:g}: must be above eps = {low:g} and at most T = {high:g}")


# ---------------------------------------------------------------------------------------------- reading


def read_images(request: EditRequest, channels: int | None = None) -> Tensor:
    """All images [n,C,S,S] in [-1, 1], cropped and resized to the model's; channels: other than the model's."""
    return from_uint8(
        torch.from_numpy(
            np.stack([_decoded(path, request.size, channels or request.channels) for path in request.images])
        )
    )


def read_low_resolution(request: EditRequest, factor: int) -> Tensor:
    """Images of size S / factor, each pixel repeated, or of size S or more as they are; [n,C,S,S]. Raises UserError."""
    if request.size % factor:
        divisors = [f for f in range(2, request.size + 1) if request.size % f == 0]
        raise UserError(
            f"--factor {factor}: must divide the model's {request.size} pixels: {', '.join(map(str, divisors))}"
        )
    small, images = request.size // factor, []
    for path in request.images:
        height, width = _size(path)
        if (height, width) == (small, small):
            images.append(_decoded(path, small, request.channels).repeat(factor, axis=1).repeat(factor, axis=2))
        elif min(height, width) >= request.size:
            images.append(_decoded(path, request.size, request.channels))
        else:
            raise UserError(
                f"{path}: {height}x{width} pixels; give {small}x{small}, to be enlarged {factor} times, or at least "
                f"{request.size}x{request.size}"
            )
    return from_uint8(torch.from_numpy(np.stack(images)))


def block_means(x: Tensor, factor: int) -> Tensor:
    """Each factor x factor block replaced by its mean; same shape."""
    return interpolate(avg_pool2d(x, factor), scale_factor=float(factor))


def read_mask(path: Path, request: EditRequest) -> Tensor:
    """1 where the picture is white (128 or more), else 0: [1,1,S,S]. Raises UserError for one that fits no image."""
    size = _size(path)
    for image in request.images:
        if size != (request.size, request.size) and size != (other := _size(image)):
            raise UserError(
                f"--mask {path}: {size[0]}x{size[1]} pixels; must be as large as {image}, {other[0]}x{other[1]}, or "
                f"as the model's images, {request.size}x{request.size}"
            )
    mask = torch.from_numpy(_decoded(path, request.size, 1) >= 128)
    if not mask.any():
        raise UserError(f"--mask {path}: has no white pixel, and white is what is filled")
    return mask[None].float()


def masked(x: Tensor, omega: Tensor) -> Tensor:
    """x [n,C,S,S] with the pixels that are to be filled in light blue: [n,3,S,S], for people."""
    colour = from_uint8(torch.tensor(MASK_COLOUR)).view(3, 1, 1)
    return torch.where(omega.bool(), colour.to(x.device), x.expand(-1, 3, -1, -1))


def pattern_mask(name: str, size: int, seed: int) -> Tensor:
    """A mask [1,1,S,S] by name: half of the side in the center, one half, every other cell or row, or random 3/4."""
    i, j = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    cell, half, edge = max(1, size // 8), size // 2, size // 4
    inside = (edge <= i) & (i < size - edge) & (edge <= j) & (j < size - edge)
    masks = {
        "center": inside,
        "left": j < half,
        "right": j >= half,
        "top": i < half,
        "bottom": i >= half,
        "checker": (i // cell + j // cell) % 2 == 0,
        "stripes": i // cell % 2 == 0,
        "random": Noise(seed, 1, torch.device("cpu")).uniform(size, size) < 0.75,
    }
    return masks[name].float()[None, None]


def _decoded(path: Path, size: int, channels: int) -> np.ndarray:
    try:
        return decode(_bytes(path), size, channels)
    except BadImage as bad:
        raise UserError(f"{path}: {bad}") from bad


def _size(path: Path) -> tuple[int, int]:
    try:
        return probe(_bytes(path))[:2]
    except BadImage as bad:
        raise UserError(f"{path}: {bad}") from bad


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: over the cap of {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


# ---------------------------------------------------------------------------------------------- results


def edit_images(request: EditRequest, x: Tensor, task: Task, repeat: int | None = None) -> np.ndarray:
    """The task's results for each of x [n,...], `repeat` (default --samples) in a row: uint8 [n * repeat,C,S,S]."""
    try:
        request.out.parent.mkdir(parents=True, exist_ok=True)  # rather than find out when all is done
    except OSError as error:
        raise UserError(f"--out {request.out}: cannot be written: {error}") from error
    model = request.generator.build(request.device)
    rows, done = x.repeat_interleave(repeat or request.samples, 0), []
    for i, part in enumerate(torch.split(rows, request.generator.cfg.eval.batch)):
        labels = None if request.label is None else torch.full((len(part),), request.label, device=request.device)
        out = task(model, part.to(request.device), Noise(request.seed, i, request.device), labels)
        require_finite(request.generator, out)
        done.append(to_uint8(out).cpu())
    return torch.cat(done).numpy()


def save(request: EditRequest, x: Tensor | None, given: Tensor | None, edited: np.ndarray) -> tuple[list[Path], Path]:
    """Write the results, and beside them the picture that compares x, what the model was given, and the results."""
    paths, compare = output_paths(request.out, len(edited))
    before = [to_uint8(images).numpy()[:, None] for images in (x, given) if images is not None]
    per_row = len(edited) // (len(before[0]) if before else 1)
    columns = [*before, edited.reshape(-1, per_row, *request.generator.shape)]
    channels = max(column.shape[2] for column in columns)  # a mask is coloured also on a grey image
    table = np.concatenate([np.broadcast_to(c, (*c.shape[:2], channels, *c.shape[3:])) for c in columns], axis=1)
    try:
        for path, image in zip(paths, edited, strict=True):
            save_png(path, to_picture(image))
        rows = table.reshape(-1, *table.shape[2:])
        save_png(compare, grid_image(rows, columns=table.shape[1], scale=max(1, COMPARE_SIDE // request.size)))
    except OSError as error:
        raise UserError(f"--out {request.out}: cannot be written: {error}") from error
    return paths, compare


def output_paths(out: Path, count: int) -> tuple[list[Path], Path]:
    """OUT.png, or OUT-1.png, ..., OUT-COUNT.png; and OUT-compare.png."""
    width = len(str(count))
    numbered = [out.with_stem(f"{out.stem}-{i:0{width}d}") for i in range(1, count + 1)]
    return [out] if count == 1 else numbered, out.with_stem(f"{out.stem}-compare")
