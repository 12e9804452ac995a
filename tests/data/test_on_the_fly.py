"""data.decode = on_the_fly: the images of the memory map, bit for bit, without the map."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs
from sklearn.datasets import load_digits

from act_ray.data import on_the_fly, shards, store
from act_ray.data.on_the_fly import ShardImages
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.metrics import classifier
from act_ray.prepare.conversion import PrepareOptions, prepare
from tests.helpers.command import Ended
from tests.helpers.sources import make_zip
from tests.helpers.tiny_runs import assert_same_run, go, killed_at, tiny

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def prepared(pixels: np.ndarray, labels: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """10 images in shards of 5, those in row groups of 2, 2 and 1; one shard is open at a time."""
    monkeypatch.setattr(store, "GROUP_BYTES", 2 * 192)
    monkeypatch.setattr(on_the_fly, "OPEN_SHARDS", 1)
    prepare(str(make_zip(tmp_path / "src", pixels, labels)), tmp_path / "data", PrepareOptions(shard_images=5))
    return tmp_path / "data"


def test_every_way_to_ask_gives_what_an_array_gives(prepared: Path, pixels: np.ndarray, labels: list[int]) -> None:
    data, expected = open_data(str(prepared), "on_the_fly"), pixels.transpose(0, 3, 1, 2)
    assert isinstance(data.images, ShardImages)
    assert (data.images.shape, len(data.images), data.labels.tolist()) == (expected.shape, 10, labels)
    shuffled = np.random.default_rng(0).integers(-10, 10, 200)
    keys: list[Any] = [3, -1, np.int64(4), slice(None), slice(3, 8), slice(None, None, -3), slice(4, 4)]
    keys += [shuffled, shuffled.reshape(20, 10), [7, 7, 0], np.arange(10) % 3 == 0, np.array([], dtype=int)]
    for key in keys:
        found = data.images[key]
        assert (type(found), found.dtype) == (np.ndarray, np.uint8)
        np.testing.assert_array_equal(found, expected[key])
    with pytest.raises(IndexError, match="index 10 is out of bounds"):
        data.images[[10]]
    with pytest.raises(TypeError, match="by their numbers alone"):
        data.images[0, 0]


def test_many_threads_may_ask_at_once(prepared: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_the_fly, "OPEN_SHARDS", 3)
    data, expected = open_data(str(prepared), "on_the_fly"), pixels.transpose(0, 3, 1, 2)

    def ask(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 10, (50, 20)):
            np.testing.assert_array_equal(data.images[index], expected[index])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len(data.images.idle) == 3


def test_nothing_of_the_decoded_size_is_written_and_shards_are_checked_once(
    prepared: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    first = open_data(str(prepared), "on_the_fly", said.append)
    (folder,) = own_cache.glob(f"{first.checksum}-on-the-fly-????????")
    assert {p.name for p in own_cache.iterdir()} == {folder.name, f"{first.checksum}.lock"}
    assert {p.name for p in folder.iterdir()} == {"labels.npy", "shards.json"}
    assert "of shards, once on this machine; they are read on the fly, without the 1.92 kB that" in said[0]
    checked = []
    monkeypatch.setattr(store, "check_shard", lambda *args: checked.append(args[3]["file"]))
    open_data(str(prepared), "on_the_fly", said.append)
    assert (len(said), checked) == (1, [])
    os.utime(prepared / "shard-00001.parquet", (1, 1))
    open_data(str(prepared), "on_the_fly")
    assert checked == ["shard-00000.parquet", "shard-00001.parquet"]
    mapped = open_data(str(prepared), "ahead", said.append)
    assert said[-1] == f"{prepared}: decoding 10 images to 1.92 kB in {own_cache}, once on this machine"
    assert isinstance(open_data(str(prepared), "on_the_fly").images, np.memmap)  # it is there, and faster
    np.testing.assert_array_equal(first.images[:], mapped.images)


def test_a_damaged_shard_is_one_line(prepared: Path) -> None:
    shard = prepared / "shard-00001.parquet"
    whole = shard.read_bytes()
    torn = bytearray(whole)
    torn[40] ^= 1  # in the pixels of its first images
    shard.write_bytes(torn)
    with pytest.raises(UserError, match=r"shard-00001\.parquet: damaged: its SHA-256 is not"):
        open_data(str(prepared), "on_the_fly")
    shard.write_bytes(whole)
    data = open_data(str(prepared), "on_the_fly")
    for content in (bytes(torn), whole[: len(whole) // 2], b""):  # damaged while a run reads it
        shard.write_bytes(content)
        with pytest.raises(UserError, match=r"data/shard-00001\.parquet: damaged since it was checked") as error:
            data.images[[1, 6]]
        assert "\n" not in str(error.value)
        data.images[1]  # of another shard, which closes this one
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.parquet: is missing"):
        open_data(str(prepared), "on_the_fly")


def test_shards_on_an_object_store_are_copied_as_they_are(
    prepared: Path, own_cache: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shards._filesystem
    store_ = fs.SubTreeFileSystem(str(prepared.parent), fs.LocalFileSystem())
    monkeypatch.setattr(shards, "_filesystem", lambda path: (store_, path.removeprefix("s3://bucket/")))
    said = list[str]()
    open_data("s3://bucket/data", "on_the_fly", said.append)
    copies = sorted(own_cache.glob("*-on-the-fly-*/*.parquet"))
    assert [copy.read_bytes() for copy in copies] == [p.read_bytes() for p in sorted(prepared.glob("*.parquet"))]
    assert said[0].startswith("s3://bucket/data: copying ")
    assert f" of shards to {copies[0].parent}, once on this machine" in said[0]
    with monkeypatch.context() as here:  # a copy of them has files of its own: a run goes on with these
        here.setattr(shards, "_filesystem", original)
        open_data(str(prepared), "on_the_fly")
    assert all(copy.exists() for copy in copies)
    for file in prepared.glob("*.parquet"):
        file.unlink()
    found = open_data("s3://bucket/data", "on_the_fly").images[::-1]
    np.testing.assert_array_equal(found, pixels.transpose(0, 3, 1, 2)[::-1])


def test_shards_of_large_row_groups_are_read_and_told_of(
    prepared: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_the_fly, "SLOW_BYTES", 192)
    said = list[str]()
    data = open_data(str(prepared), "on_the_fly", said.append)
    assert "its shards were written in groups of 2 images, all of which are decoded" in said[-1]
    np.testing.assert_array_equal(data.images[[9, 0]], pixels[[9, 0]].transpose(0, 3, 1, 2))


# ---------------------------------------------------------------------------------------------- training


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """300 handwritten digits in three shards."""
    bunch = load_digits()
    images = np.rint(bunch.images[:300] * (255 / 16)).astype(np.uint8)
    np.savez(tmp_path / "src.npz", images[..., None], bunch.target[:300])
    prepare(str(tmp_path / "src.npz"), tmp_path / "digits", PrepareOptions(shard_images=128))
    return str(tmp_path / "digits")


def test_a_run_is_the_same_to_the_bit_also_when_it_is_killed_and_goes_on(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 2)
    more = {"data.path": digits, "data.held_out": 0.1, "data.flip": True, "model.num_classes": 10}
    cfg = tiny({**more, "data.decode": "on_the_fly"})
    middle = cfg.checkpoint.every + 1
    killed_at(cfg, tmp_path / "killed", middle)
    go(cfg, tmp_path / "killed")
    go(cfg, tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert isinstance(open_data(digits, "on_the_fly").images, ShardImages)
    go(tiny(more), tmp_path / "ahead")
    config = tmp_path / "whole/config.yaml"
    config.write_text(config.read_text().replace("decode: on_the_fly", "decode: ahead"))
    assert_same_run(tmp_path / "ahead", tmp_path / "whole")


def test_the_command_says_what_it_checks_and_a_damaged_shard_in_one_line(
    digits: str, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ("train", "--preset", "digits", "--data", digits, "--dry-run", "--set", "data.decode=on_the_fly")
    ended = Ended(capfd, *args)
    assert (ended.code, ended.err.count("\n")) == (0, 1)
    assert f"{digits}: checking " in ended.err
    assert "decode: on_the_fly" in ended.out
    shard = Path(digits, "shard-00002.parquet")
    shard.write_bytes(shard.read_bytes()[:-9])
    assert Ended(capfd, *args).err.splitlines()[-1] == (
        f"error: {digits}/{shard.name}: damaged: its SHA-256 is not the one in manifest.json"
    )
