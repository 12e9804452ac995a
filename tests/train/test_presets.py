"""Every shipped preset, shrunken in width and length only, trains from a file of its own format, by the commands."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from act_ray import settings
from act_ray.metrics import classifier, self_supervised
from tests.helpers.command import Ended
from tests.helpers.tiny_settings import as_options

SHRUNKEN: dict[str, Any] = {
    "train.total_steps": 2,
    "train.global_batch": 2,
    "train.log_every": 1,
    "train.threads": 1,
    "model.layers_per_block": 1,
    "model.norm_num_groups": 4,
    "model.attention_head_dim": 4,
    "discriminator.layers_per_block": 1,
    "train.precision": "fp32",  # a CPU takes ten times as long for fp16
    "loss.distance": "pseudo_huber",  # LPIPS needs weight files
    "eval.every": 2,
    "eval.weights": ["ema"],
    "eval.samples": 16,
    "eval.batch": 4,
    "eval.grid": 4,
}


def noise(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)


# ---------------------------------------------------------------------------------------------- a source of each format


def cifar_folder(src: Path) -> None:
    """CIFAR-10's python batches: protocol 2, rows of planar pixels, labels in a list."""
    for part in ("data_batch_1", "test_batch"):
        fields = {
            b"batch_label": b"training batch 1 of 5",
            b"labels": [i % 10 for i in range(20)],
            b"data": noise(20, 3072),
        }
        fields[b"filenames"] = [f"{part}_{i}.png".encode() for i in range(20)]
        (src / part).write_bytes(pickle.dumps(fields, protocol=2))
    (src / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a"] * 10}, protocol=2))


def imagenet_batch(src: Path) -> None:
    """The downsampled ImageNet's: protocol 3, labels from 1 to 1,000, the mean image beside the data."""
    rows = noise(20, 3 * 64 * 64)
    fields = {"data": rows, "labels": [50 * i + 50 for i in range(20)], "mean": rows.mean(0)}
    (src / "train_data_batch_1").write_bytes(pickle.dumps(fields, protocol=3))


def lsun_lmdb(src: Path) -> None:
    """A category of LSUN: WebP images whose shorter side is 256, under keys that mean nothing."""
    folder = src / "cat"
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for i, image in enumerate(noise(4, 16, 20, 3)):
            file = io.BytesIO()
            Image.fromarray(image).resize((320, 256)).save(file, "WEBP", quality=75)
            transaction.put(f"{i:040x}".encode(), file.getvalue())


def idx_files(src: Path) -> None:
    """MNIST's and Fashion-MNIST's: big-endian sizes, then the bytes."""
    for name, array in (
        ("train-images-idx3-ubyte", noise(40, 28, 28)),
        ("train-labels-idx1-ubyte", np.arange(40, dtype=np.uint8) % 10),
    ):
        header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
        (src / name).write_bytes(header + array.tobytes())


def mixed_pictures(src: Path) -> None:
    """As a camera and the web leave them: sizes, formats and kinds of pixels, without labels."""
    for i in range(40):
        width, height = 40 + 7 * (i % 5), 40 + 5 * (i % 7)
        picture = Image.fromarray(noise(1, height, width, 3)[0])
        picture = picture.convert(("RGB", "L", "P", "RGBA")[i % 4] if i else "RGB")
        picture.save(src / (f"{i}.png" if i % 4 > 1 else f"{i}.jpg"))


SOURCES: dict[str, tuple[Callable[[Path], None], list[str], tuple[int, ...], int]] = {
    "cifar10": (cifar_folder, ["--only", "data_batch_*"], (3, 32, 32), 10),
    "cifar10_16": (cifar_folder, ["--size", "16"], (3, 16, 16), 10),
    "cifar10_aug": (cifar_folder, [], (3, 32, 32), 10),
    "fashion": (idx_files, [], (1, 28, 28), 10),
    "imagenet64": (imagenet_batch, [], (3, 64, 64), 1000),
    "lsun_cat256": (lsun_lmdb, ["--size", "256"], (3, 256, 256), 0),
    "small": (mixed_pictures, ["--size", "32"], (3, 32, 32), 0),
}


@pytest.mark.parametrize("preset", [name for name in settings.preset_names() if name != "digits"])
def test_preset_trains_from_a_file_of_its_format(
    preset: str,
    tmp_path: Path,
    own_cache: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 2)
    monkeypatch.setattr(self_supervised, "STEPS", 2)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_weights"))
    make, options, shape, classes = SOURCES[preset]
    (tmp_path / "src").mkdir()
    make(tmp_path / "src")
    Ended(capfd, "prepare", tmp_path / "src", tmp_path / "data", *options).succeeded()
    full = settings.load(preset)
    widths = [4 * (1 + (w > full.model.block_out_channels[0])) for w in full.model.block_out_channels]
    shrunken = {**SHRUNKEN, "model.block_out_channels": widths}
    start = ["train", "--preset", preset, "--workers", "0", "--data", tmp_path / "data", "--storage", tmp_path]
    Ended(capfd, *start, "--name", "run", *as_options(shrunken)).succeeded()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["outcome"] == "completed"
    assert 0 < result["score"] < 1e9
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert tuple(manifest[key] for key in ("channels", "height", "width")) == shape
    assert full.model.num_classes in (None, classes)
