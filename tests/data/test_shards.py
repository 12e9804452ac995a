import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from act_ray.data import shards, store
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.prepare.conversion import PrepareOptions, prepare
from tests.helpers.sources import make_folder, make_zip

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def prepared(pixels: np.ndarray, labels: list[int], tmp_path: Path) -> Path:
    """10 images in shards of 4, 4 and 2."""
    prepare(str(make_zip(tmp_path / "src", pixels, labels)), tmp_path / "data", PrepareOptions(shard_images=4))
    return tmp_path / "data"


def test_the_format_on_disk(prepared: Path, pixels: np.ndarray, labels: list[int]) -> None:
    table = pq.read_table(prepared / "shard-00000.parquet")
    assert str(table.schema.field("image").type) == "fixed_size_binary[192]"
    assert str(table.schema.field("label").type) == "int32"
    assert table["label"].to_pylist() == labels[:4]
    assert table["name"].to_pylist()[0] == "00000/img00000000.png"
    assert table["image"][1].as_py() == pixels[1].transpose(2, 0, 1).tobytes()
    assert pq.ParquetFile(prepared / "shard-00000.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["complete"]) == ("act_ray.images", 1, True)
    assert (manifest["count"], manifest["height"], manifest["width"], manifest["channels"]) == (10, 8, 8, 3)
    assert [shard["count"] for shard in manifest["shards"]] == [4, 4, 2]
    assert {path.name for path in prepared.iterdir()} == {
        "manifest.json",
        *(f"shard-0000{i}.parquet" for i in range(3)),
    }


def test_row_groups_do_not_show(
    pixels: np.ndarray, labels: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GROUP_BYTES", 2 * 192)
    prepare(str(make_zip(tmp_path / "src", pixels, labels)), tmp_path / "data", PrepareOptions(shard_images=5))
    assert pq.ParquetFile(tmp_path / "data/shard-00000.parquet").num_row_groups == 3
    data = open_data(str(tmp_path / "data"))
    np.testing.assert_array_equal(data.images, pixels.transpose(0, 3, 1, 2))
    assert data.labels.tolist() == labels


def test_decoded_once_and_mapped_after(prepared: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_data(str(prepared))
    assert isinstance(first.images, np.memmap)
    assert first.labels.dtype == np.int64
    assert first.name == "data"
    assert not first.images.flags.writeable
    assert sorted(p.name for p in own_cache.iterdir()) == [first.checksum, f"{first.checksum}.lock"]
    monkeypatch.setattr(shards, "_decode", lambda *_: pytest.fail("decoded twice"))
    np.testing.assert_array_equal(open_data(prepared.as_uri()).images, first.images)
    moved = shutil.move(prepared, prepared.with_name("moved"))
    assert open_data(f"{moved}/").name == "moved"  # keyed by content, not by path


def test_a_torn_cache_is_made_anew(prepared: Path, own_cache: Path) -> None:
    data = open_data(str(prepared))
    expected = np.array(data.images)
    file = own_cache / data.checksum / "images.npy"
    content = file.read_bytes()
    del data
    for torn in (b"", content[:100], content[:-1]):
        file.write_bytes(torn)
        np.testing.assert_array_equal(open_data(str(prepared)).images, expected)
    (own_cache / f"{file.parent.name}.tmp").mkdir()  # left by a process that died
    shutil.rmtree(file.parent)
    np.testing.assert_array_equal(open_data(str(prepared)).images, expected)


def _open(path: str, barrier, results) -> None:  # type: ignore[no-untyped-def]
    def counted(*args: object) -> None:
        results.put("decoded")
        original(*args)

    original, shards._decode = shards._decode, counted
    barrier.wait()
    results.put(int(open_data(path).images.sum()))


def test_processes_share_one_decoding(prepared: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_open, args=(str(prepared), barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=60) for _ in range(4)]
    for worker in workers:
        worker.join()
    assert answers.count("decoded") == 1
    assert len({answer for answer in answers if answer != "decoded"}) == 1


def test_every_byte_flip_is_caught_and_the_shard_named(prepared: Path, own_cache: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        shard = prepared / f"shard-0000{rng.integers(3)}.parquet"
        whole = shard.read_bytes()
        torn = bytearray(whole)
        torn[rng.integers(len(torn))] ^= 1 << int(rng.integers(8))
        shard.write_bytes(torn if rng.integers(4) else whole[: rng.integers(len(whole))])
        with pytest.raises(UserError, match=f"{shard.name}: damaged"):
            open_data(str(prepared))
        shard.write_bytes(whole)
    assert not list(own_cache.glob("*.tmp"))
    (prepared / "shard-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"shard-00001.parquet: is missing"):
        open_data(str(prepared))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 11}, "damaged: its checksum"),
        ({"height": 4, "width": 16}, "damaged: its checksum"),
        ({"classes": 2}, "damaged: its checksum"),
        ({"shards": []}, "damaged: shards: "),
        ({"shards": None}, "damaged: shards: "),
        ({"version": 2}, "version 2, and this act_ray reads version 1"),
        ({"format": "other"}, 'its format is not "act_ray.images"'),
        ({"complete": False}, "preparation was not finished"),
    ],
)
def test_a_changed_manifest_is_refused(prepared: Path, change: dict[str, object], message: str) -> None:
    file = prepared / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        open_data(str(prepared))


@pytest.mark.parametrize("bad", ["file", "classes", "count", "width"])
def test_a_manifest_that_agrees_with_itself_is_still_checked(prepared: Path, bad: str, tmp_path: Path) -> None:
    file = prepared / "manifest.json"
    manifest = json.loads(file.read_text())
    if bad == "file":
        manifest["shards"][0]["file"] = "../src.zip"
    if bad == "classes":
        manifest["classes"] = 2
    if bad == "count":
        manifest["shards"][0]["count"], manifest["shards"][1]["count"] = 3, 5
    if bad == "width":
        manifest["height"] = 9
    manifest["checksum"] = store.checksum(manifest)
    file.write_text(json.dumps(manifest))
    expected = {"file": "manifest.json: damaged", "classes": "labels 0 to 2 where there are 2 classes"}
    expected |= {"count": "4 images where manifest.json says 3", "width": "images are not of 216 bytes"}
    with pytest.raises(UserError, match=expected[bad]):
        open_data(str(prepared))


def test_digits() -> None:
    data = open_data("digits")
    assert data.images.shape == (1797, 1, 8, 8)
    assert (data.images.dtype, data.images.min(), data.images.max()) == (np.uint8, 0, 255)
    assert np.bincount(data.labels).min() > 170
    assert data.num_classes == 10
    assert data.checksum == open_data("digits").checksum


def test_a_wrong_path_names_the_nearest_valid_thing(
    prepared: Path, pixels: np.ndarray, labels: list[int], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "raw", pixels, labels)
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "dta"): f"no such folder; did you mean {prepared}",
        "digit": "no such folder; did you mean digits",
        str(
            folder
        ): rf"looks like unprepared data \(image folder\): run `python -m act_ray.prepare {folder} DST` first",
        str(tmp_path / "src.zip"): r"looks like unprepared data \(EDM/StyleGAN zip\): run",
        str(tmp_path / "empty"): "not a prepared data set: it has no manifest.json",
        (tmp_path / "empty").as_uri(): "no manifest.json there",
        "gopher://x/y": "not a usable URI",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            open_data(path)
        assert "\n" not in str(error.value)


def test_a_full_disk_and_a_bad_cache_folder_are_user_errors(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(
        UserError,
        match=r"needs 3.* kB free, has 0 B; data.decode=on_the_fly reads the shards instead, or ACT_RAY_CACHE",
    ):
        open_data(str(prepared))
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACT_RAY_CACHE", str(tmp_path / "file/below"))
    with pytest.raises(UserError, match="ACT_RAY_CACHE"):
        open_data(str(prepared))
