"""What reading batches costs, out of the memory map and on the fly, in one run: `python benchmarks/loader.py`.

Made-up photographs (coloured noise whose spectrum falls as photographs' does, through JPEG) at 32x32 and 256x256 are
prepared; then batches of random images are read from them in turn: out of the map, and on the fly with 1 and 2 threads.
After that the preset cifar10_16 trains on the first kind at 16x16, with each way of reading, with and without reading
ahead. Rounds go through all ways in turn, so that a machine's mood is shared; files are in the page cache.
"""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from act_ray import settings
from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.step import TrainState, train_step
from act_ray.data import store
from act_ray.data.on_the_fly import ShardImages
from act_ray.data.shards import ImageData, open_data
from act_ray.files import in_units
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.train.batches import Batches, fetch
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state

KINDS = {32: (40_000, 160), 256: (1_500, 16)}  # images, and how many of them a batch has, by side
DISTINCT = 500  # photographs that are made; the others are shifted copies


def photographs(side: int, count: int) -> NDArray[np.uint8]:
    """uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(side)
    radius = np.sqrt(np.fft.fftfreq(side)[:, None] ** 2 + np.fft.fftfreq(side)[None] ** 2)
    radius[0, 0] = np.inf
    out = np.empty((count, side, side, 3), dtype=np.uint8)
    for i in range(count):
        if i >= DISTINCT:
            out[i] = np.roll(out[i % DISTINCT], tuple(rng.integers(1, side, 2)), (0, 1))
            continue
        planes = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, side, side))) / radius**1.5).real
        planes = 0.8 * planes[:1] + 0.3 * planes  # the channels of a photograph are much alike
        planes = 128 + 50 * (planes - planes.mean()) / planes.std()
        file = io.BytesIO()
        Image.fromarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=90)
        out[i] = np.asarray(Image.open(file))
    return out


def prepared(work: Path, side: int, count: int) -> tuple[ImageData, ImageData]:
    """The same images on the fly and out of the map."""
    np.save(work / f"{side}.npy", photographs(side, count))
    manifest = prepare(str(work / f"{side}.npy"), work / str(side), PrepareOptions())
    on_the_fly = open_data(str(work / str(side)), "on_the_fly")
    started = time.perf_counter()
    ahead = open_data(str(work / str(side)))
    shards = in_units(sum(shard["bytes"] for shard in manifest["shards"]))
    decoded = in_units(store.decoded_bytes(manifest))
    print(
        f"{count:,} images of {side}x{side}: shards {shards}, map {decoded}, "
        f"which took {time.perf_counter() - started:.1f} s"
    )
    return on_the_fly, ahead


def with_threads(data: ImageData, threads: int) -> ImageData:
    """The same images, decoded by another number of threads."""
    assert isinstance(data.images, ShardImages)
    return replace(data, images=ShardImages(data.images.shards, data.images.shape, threads))


def in_turn(ways: dict[str, Callable[[int], object]], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds per call of each way, by round; the first round, which warms up, is left out."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, call in ways.items():
            started = time.perf_counter()
            for i in range(calls):
                call(number * calls + i)
            times[name].append((time.perf_counter() - started) / calls)
    return {name: seconds[1:] for name, seconds in times.items()}


def show(times: dict[str, list[float]], unit: str, per_call: int) -> None:
    """Median, and the range over the rounds."""
    for name, seconds in times.items():
        rates = sorted(per_call / second for second in seconds)
        print(f"  {name:32s} {statistics.median(rates):10,.1f} {unit}/s  ({rates[0]:,.1f} to {rates[-1]:,.1f})")


def read_batches(on_the_fly: ImageData, ahead: ImageData, batch: int, rounds: int) -> None:
    """Images per second of each way; all give the same."""
    data = {"map": ahead, **{f"on the fly, {n} thread(s)": with_threads(on_the_fly, n) for n in (1, 2)}}
    index = np.random.default_rng(0).integers(0, len(ahead.images), (20 * (rounds + 1), batch))
    for one in data.values():
        np.testing.assert_array_equal(one.images[index[0]], ahead.images[index[0]])
    ways = {name: lambda i, images=one.images: images[index[i]] for name, one in data.items()}
    show(in_turn(ways, rounds, 20), "images", batch)


def train(on_the_fly: ImageData, ahead: ImageData, rounds: int, steps: int) -> None:
    """Steps per second of cifar10_16, reading in the background and before each step."""
    cfg = settings.load("cifar10_16", {"train.total_steps": steps * (rounds + 2)})
    torch.set_num_threads(cfg.train.threads or 1)
    ways: dict[str, Callable[[int], object]] = {}
    for name, data in (("map", ahead), ("on the fly", on_the_fly)):
        state = build_state(cfg, data, Ranks(), print)
        ways[f"{name}, in the background"] = stepper(cfg, state, Batches(data, cfg, Ranks()).fetch)
        state = build_state(cfg, data, Ranks(), print)
        ways[f"{name}, before each step"] = stepper(
            cfg,
            state,
            lambda step, data=data: fetch(data, cfg, step, Ranks()),  # type: ignore[misc]
        )
    show(in_turn(ways, rounds, steps), "steps", 1)


def stepper(cfg: Config, state: TrainState, images: Callable[[int], object]) -> Callable[[int], object]:
    """One training step, on the images of its number."""

    def step(number: int) -> None:
        (x, labels), own = images(number)  # type: ignore[misc]
        train_step(state, x, labels, Noise(cfg.train.seed, number, torch.device("cpu")), cfg.step, lambda v: v, own)

    return step


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Training steps per round.")
def main(rounds: int, steps: int) -> None:
    """Print images and steps per second: medians over the rounds, and their range."""
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.0f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["ACT_RAY_CACHE"] = str(work / "cache")
        for side, (count, batch) in KINDS.items():
            read_batches(*prepared(work, side, count), batch, rounds)
        train(*prepared(work, 16, 20_000), rounds, steps)


if __name__ == "__main__":
    main()
