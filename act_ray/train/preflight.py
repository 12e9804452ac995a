"""What a run would fail for, all of it, found before it starts."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from act_ray.config import Config, DataConfig, nearest_divisor
from act_ray.data.shards import ImageData, Say, open_data
from act_ray.errors import UserError
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.reading import read_generator
from act_ray.metrics.features import inception_weights
from act_ray.models.discriminators import check_discriminator, require_discriminator_files
from act_ray.models.perceptual import require_weights
from act_ray.train.batches import held_out_count

T = TypeVar("T")
Finding = tuple[str, str]  # what it is about, and a UserError's message
Opened = Callable[[DataConfig], ImageData]


def preflight(cfg: Config, workers: int, say: Say = lambda line: None) -> None:
    """Find on this machine, before anything starts, what every worker would fail for.

    say: hears that the data is opened for the first time, and what that takes. Raises one UserError of all findings.
    """
    raise_all(message for _, message in findings(cfg, workers, opening(say)))


def opening(say: Say = lambda line: None) -> Opened:
    """How a run opens its data."""
    return lambda data: open_data(data.path, data.decode, say)


def raise_all(messages: Iterable[str]) -> None:
    """One UserError of them, each once; nothing where there is none."""
    if found := [*dict.fromkeys(messages)]:
        raise UserError("; ".join(found))


def findings(cfg: Config, workers: int, opened: Opened | None = None) -> list[Finding]:
    """All that a run with these settings would fail for on this machine; none where it can start.

    opened: gives the data, or raises UserError.
    """
    found = list[Finding]()

    def attempt(what: str, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except UserError as error:
            found.append((what, str(error)))
            return None

    images = attempt("data", lambda: (opened or opening())(cfg.data))
    if images is not None:
        found += [("settings", message) for message in misfits(cfg, images, max(1, workers))]
        attempt("teacher", lambda: distillation_teacher(cfg, images))
    if cfg.eval.features == "inception":
        attempt("weights", lambda: inception_weights(cfg.eval))
    if cfg.loss.distance == "lpips" and cfg.consistent:
        attempt("weights", lambda: require_weights(cfg.loss))
    attempt("weights", lambda: require_discriminator_files(cfg))
    return found


def check_fit(cfg: Config, data: ImageData, world: int) -> None:
    """What only shows once the data and the number of workers are known. Raises one UserError of all misfits."""
    raise_all(misfits(cfg, data, world))


def misfits(cfg: Config, data: ImageData, world: int) -> Iterator[str]:
    """A line for each setting that goes with neither the data nor the number of workers."""
    _, channels, height, width = data.images.shape
    if height != width or height % 2 ** (len(cfg.model.block_out_channels) - 1):
        yield (
            f"data.path = {cfg.data.path}: {height}x{width} images; model.block_out_channels needs squares whose side "
            f"is a multiple of {2 ** (len(cfg.model.block_out_channels) - 1)}"
        )
    if cfg.data.subset is not None and cfg.data.subset > len(data.images):
        yield f"data.subset = {cfg.data.subset}: {cfg.data.path} has {len(data.images):,} images"
    elif cfg.data.held_out and held_out_count(cfg, len(data.images)) < 2:
        used = cfg.data.subset or len(data.images)
        yield (
            f"data.held_out = {cfg.data.held_out:g}: keeps back fewer than 2 of {used:,} images; give 0, or at least "
            f"{2 / used:.2g}"
        )
    if cfg.train.global_batch % (2 * world):
        near = max(2 * world, round(cfg.train.global_batch / (2 * world)) * 2 * world)
        where = f"train.global_batch = {cfg.train.global_batch}"
        yield f"{where}: must be a multiple of 2 x {world} workers; nearest: {near}"
    elif (micro := cfg.train.micro_batch) is not None and (share := cfg.train.global_batch // world) % micro:
        yield (
            f"train.micro_batch = {micro}: must divide a worker's share of train.global_batch, which is {share}; "
            f"nearest: {nearest_divisor(share, micro)}"
        )
    try:
        check_discriminator(cfg, channels, height, world)
    except UserError as error:
        yield str(error)
    if cfg.model.num_classes is not None and data.num_classes != cfg.model.num_classes:
        yield f"model.num_classes = {cfg.model.num_classes}: {cfg.data.path} has {data.num_classes or 'no'} classes"
    if cfg.loss.distance == "lpips" and cfg.consistent and channels != 3:
        yield f"loss.distance = 'lpips': needs 3 channels, {cfg.data.path} has {channels}; use pseudo_huber"


def distillation_teacher(cfg: Config, data: ImageData) -> Generator | None:
    """The network of distill.teacher, None where there is none. Raises UserError for one that does not fit."""
    if cfg.distill.teacher is None or not cfg.consistent:
        return None
    name = f"distill.teacher = {cfg.distill.teacher}"
    try:
        source = read_generator(cfg.distill.teacher, image_size=data.images.shape[2])
    except UserError as error:
        raise UserError(f"distill.teacher: {error}") from None
    if source.kind is Kind.UNKNOWN and cfg.distill.teacher.endswith((".pt", ".pth")):
        raise UserError(f"{name}: may be a consistency model; the name of EDM's denoisers begins with edm_")
    if not source.can_denoise:
        raise UserError(f"{name}: is no diffusion model; make one with train.method = diffusion")
    if source.shape != data.images.shape[1:]:
        raise UserError(f"{name}: makes {source.shape} images; {data.name} has {data.images.shape[1:]}")
    if source.cfg.model.num_classes != cfg.model.num_classes:
        raise UserError(
            f"{name}: was trained with {source.cfg.model.num_classes or 'no'} classes, and "
            f"model.num_classes = {cfg.model.num_classes}"
        )
    return source
