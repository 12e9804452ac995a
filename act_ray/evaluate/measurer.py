"""Samples and their features, chunk by chunk; which process did what shows in no number."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from act_ray.config import Config
from act_ray.data.shards import ImageData, open_data
from act_ray.device import best_device, threads
from act_ray.errors import UserError
from act_ray.generators.generator import Generator
from act_ray.generators.sampling import draw_batch
from act_ray.metrics.features import FeatureNetwork, compute_outputs
from act_ray.metrics.moments import Chunk, Measured, combine, measured
from act_ray.metrics.reference import measure_images
from act_ray.pictures import to_uint8

# (chunks, outputs to keep, levels) -> what was measured of each, in order; levels are the sampler's, None stands for
# the real images.
Measure = Callable[[Sequence[Chunk], list[int], Sequence[float] | None], Iterator[Measured]]


@dataclass(frozen=True)
class Setup:
    """What every worker needs: the generator, the feature network, and images per class of the data, if it has any."""

    generator: Generator
    network: FeatureNetwork
    cfg: Config
    label_counts: list[int] | None


class Measurer:
    """The generator and the feature network on one device, from the first chunk on.

    Not from its constructor: what fails there comes back from Ray as a lost worker.
    """

    def __init__(self, gpu: bool | None) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as training scores itself
        self.gpu = gpu
        self.made: tuple[Setup, ImageData, nn.Module, torch.device] | None = None

    def ready(self) -> None:
        """Returns when the worker has started."""

    def measure(
        self, fetch: Callable[[], Setup], chunk: Chunk, keep: list[int], levels: Sequence[float] | None
    ) -> Measured:
        """The chunk's samples, or with None for levels the data's own images of these indices; `fetch` on first use."""
        self.made = setup, data, model, device = self.made or build_on_device(fetch(), self.gpu)
        cfg, n = setup.cfg, sum(map(len, chunk))

        def samples(batch: Sequence[int]) -> Tensor:
            index, shape = batch[0] // cfg.eval.batch, setup.generator.shape
            args = (model, cfg, shape, setup.label_counts, index, len(batch), device)
            return to_uint8(draw_batch(*args, levels=levels or ())[0])

        try:
            with threads(cfg.train.threads or 1):
                if levels is None:
                    return measure_images(setup.network, data, chunk, keep)
                return combine((measured(compute_outputs(setup.network, samples(b)), keep) for b in chunk), n)
        except torch.OutOfMemoryError:
            raise UserError(f"--batch {cfg.eval.batch}: needs more memory than the GPU has; try half of it") from None


def build_on_device(setup: Setup, gpu: bool | None) -> tuple[Setup, ImageData, nn.Module, torch.device]:
    """Both networks on the device of this process, and the real images."""
    device = best_device(gpu)
    setup.network.to(device)
    return setup, open_data(setup.cfg.data.path, setup.cfg.data.decode), setup.generator.build(device), device


@contextlib.contextmanager
def measuring(
    setup: Setup, workers: int | None, gpu: bool | None, say: Callable[[str], None] = lambda line: None
) -> Iterator[Measure]:
    """Yields what measures chunks: on `workers` Ray workers (None: what the cluster has), or 0, in this process.

    say: hears that Ray starts, which takes long.
    """
    if workers == 0:
        own = Measurer(gpu)
        yield lambda chunks, keep, levels: (own.measure(lambda: setup, chunk, keep, levels) for chunk in chunks)
        return
    say("starting Ray")
    from act_ray.evaluate.ray_workers import measuring_on_ray

    with measuring_on_ray(setup, workers, gpu, say) as measure:
        yield measure
