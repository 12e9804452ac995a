"""What a run would fail for, all of it: the quick part of the doctor, in which nothing is trained."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from act_ray import settings
from act_ray.config import Config
from act_ray.data.shards import ImageData, open_data
from act_ray.errors import UserError
from act_ray.metrics.features import inception_weights
from act_ray.models.discriminators import require_discriminator_files
from act_ray.models.perceptual import require_weights
from act_ray.train.preflight import check_fit, distillation_teacher
from act_ray.tune.space import Space

T = TypeVar("T")
Finding = tuple[str, str]  # what it is about, and a UserError's message


def problems(cfg: Config, workers: int) -> list[str]:
    """All that a run with these settings would fail for on this machine, a line each; none where it can start."""
    return [message for _, message in findings(cfg, workers)]


def findings(cfg: Config, workers: int, data: ImageData | None = None) -> list[Finding]:
    """As problems(), each with what it is about; `data`, where it was opened already."""
    found = list[Finding]()

    def attempt(what: str, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except UserError as error:
            found.append((what, str(error)))
            return None

    images = data or attempt("data", lambda: open_data(cfg.data.path, cfg.data.decode))
    if images is not None:
        attempt("settings", lambda: check_fit(cfg, images, max(1, workers)))
        attempt("teacher", lambda: distillation_teacher(cfg, images))
    if cfg.eval.features == "inception":
        attempt("weights", lambda: inception_weights(cfg.eval))
    if cfg.loss.distance == "lpips" and cfg.consistent:
        attempt("weights", lambda: require_weights(cfg.loss))
    attempt("weights", lambda: require_discriminator_files(cfg))
    return found


def findings_of_search(space: Space, workers: int, data: ImageData | None = None) -> list[Finding]:
    """The same for the trials of a search, each once: for each value of what has files of its own."""
    found = dict.fromkeys(findings(space.example(), workers, data))
    for name, value in _values(space):
        own = None if name == "data.path" else data
        try:
            found |= dict.fromkeys(findings(space.example({name: value}), workers, own))
        except UserError:  # which goes with no other value: the space has been checked as a whole
            continue
    return list(found)


def _values(space: Space) -> Iterator[tuple[str, object]]:
    for name in (*settings.paths(), "discriminator.kind", "loss.distance", "eval.features"):
        for values in space.file.parameters.get(name, {}).values():
            for value in values:
                yield name, value
