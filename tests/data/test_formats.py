"""Every accepted format keeps its pixels and labels; nothing in a hostile one gets out."""

import gzip
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from act_ray.data import store
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.prepare.conversion import PrepareOptions, prepare
from tests.helpers.sources import (
    MAKERS,
    UNLABELLED,
    N,
    cifar_batch,
    make_cifar,
    make_cifar_100,
    make_cifar_tar,
    make_flat,
    make_folder,
    make_lmdb,
    make_saved,
    make_zip,
    png,
    tar_of,
    zip_of,
)

pytestmark = pytest.mark.usefixtures("own_cache")


def quarantined(manifest: dict) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in manifest["quarantined"]}


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_format_keeps_every_pixel_and_label(make, pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    source = make(tmp_path / "src", pixels, labels)
    manifest = prepare(str(source), tmp_path / "dst", PrepareOptions())
    data = open_data(str(tmp_path / "dst"))
    order = sorted(range(N), key=lambda i: labels[i]) if make is make_folder else list(range(N))
    expected = pixels[order].transpose(0, 3, 1, 2)
    ten = make in (make_cifar, make_cifar_tar)
    if ten:
        expected = expected.repeat(4, axis=2).repeat(4, axis=3)
    np.testing.assert_array_equal(data.images, expected)
    assert not manifest["quarantined"]
    if make in UNLABELLED:
        assert data.labels is None
        assert data.num_classes == 0
    else:
        assert data.labels.tolist() == [labels[i] for i in order]
        assert data.num_classes == (10 if ten else 3)


def test_class_names_are_kept(pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    prepare(str(make_folder(tmp_path / "src", pixels, labels)), tmp_path / "dst", PrepareOptions())
    manifest = json.loads((tmp_path / "dst/manifest.json").read_text())
    assert manifest["classes"] == ["class0", "class1", "class2"]
    assert store.num_classes(manifest) == 3


def test_an_unpacked_edm_folder_keeps_its_labels(pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    with zipfile.ZipFile(make_zip(tmp_path / "src", pixels, labels)) as archive:
        for name in archive.namelist():
            (tmp_path / "un" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "un" / name).write_bytes(archive.read(name))
    prepare(str(tmp_path / "un"), tmp_path / "dst", PrepareOptions())
    assert open_data(str(tmp_path / "dst")).labels.tolist() == labels


def test_only_takes_a_part_and_size_and_channels_convert(pixels: np.ndarray, tmp_path: Path) -> None:
    source = make_cifar(tmp_path / "src", pixels, [0] * N)
    prepare(str(source), tmp_path / "dst", PrepareOptions(size=16, channels=1, only="data_batch_*"))
    assert open_data(str(tmp_path / "dst")).images.shape == (6, 1, 16, 16)
    with pytest.raises(UserError, match="no images named like 'nothing'"):
        prepare(str(source), tmp_path / "none", PrepareOptions(only="nothing"))


# ---------------------------------------------------------------- hostile and damaged sources


def test_archive_members_that_lead_out_are_quarantined(pixels: np.ndarray, tmp_path: Path) -> None:
    good = {f"{i}.png": png(pixels[i]) for i in range(N)}
    evil = ["../x.png", "/abs.png", "a/../../y.png", "..\\z.png", "C:/w.png"]
    manifest = prepare(
        str(zip_of(tmp_path / "a.zip", {**dict.fromkeys(evil, png(pixels[0])), **good})),
        tmp_path / "z",
        PrepareOptions(),
        0.5,
    )
    assert quarantined(manifest) == dict.fromkeys(evil, "its name leads out of the archive")
    tar = tar_of(tmp_path / "a.tar", {**good, "../x.png": png(pixels[0])})
    assert set(quarantined(prepare(str(tar), tmp_path / "t", PrepareOptions(), 0.5))) == {"../x.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "a.tar", "z", "t"}


def test_links_in_archives_are_quarantined(pixels: np.ndarray, tmp_path: Path) -> None:
    with tarfile.open(tar_of(tmp_path / "a.tar", {"0.png": png(pixels[0])}), "a") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "soft.png"),
            (tarfile.LNKTYPE, "hard.png"),
            (tarfile.FIFOTYPE, "pipe.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    reasons = quarantined(prepare(str(tmp_path / "a.tar"), tmp_path / "t", PrepareOptions(), 1))
    assert reasons == {"soft.png": "is a link", "hard.png": "is a link", "pipe.png": "is not a plain file"}
    with zipfile.ZipFile(zip_of(tmp_path / "a.zip", {"0.png": png(pixels[0])}), "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert quarantined(prepare(str(tmp_path / "a.zip"), tmp_path / "z", PrepareOptions(), 1)) == {
        "link.png": "is a link"
    }


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_mnists_files_with_their_labels(packed: bool, pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    images, numbers = pixels[..., 0], np.array(labels, dtype=np.uint8)
    src = tmp_path / "src"
    (src / "raw").mkdir(parents=True)
    pack = gzip.compress if packed else bytes
    for part, take in (("t10k", slice(0, 4)), ("train", slice(4, N))):
        for name, array in (("images-idx3", images), ("labels-idx1", numbers)):
            file = src / f"raw/{part}-{name}-ubyte{'.gz' * packed}"
            file.write_bytes(pack(idx(array[take])))
    prepare(str(src), tmp_path / "dst", PrepareOptions())
    data = open_data(str(tmp_path / "dst"))
    np.testing.assert_array_equal(data.images, images[:, None])
    assert data.labels.tolist() == labels
    manifest = prepare(str(src), tmp_path / "part", PrepareOptions(only="train*"))
    assert manifest["count"] == N - 4
    if not packed:  # torchvision leaves both
        (src / "raw/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[4:])))
        assert prepare(str(src), tmp_path / "both", PrepareOptions())["count"] == N
    file.unlink()
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.*not beside it; put them there, or give --no-labels"):
        prepare(str(src), tmp_path / "none", PrepareOptions())
    file.write_bytes(pack(idx(numbers[:3])))
    with pytest.raises(UserError, match="3 labels for the 6 images of train-images"):
        prepare(str(src), tmp_path / "none", PrepareOptions())


def test_cifar_100_has_two_kinds_of_labels(pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    source = make_cifar_100(tmp_path / "src", pixels, labels)
    assert prepare(str(source), tmp_path / "fine", PrepareOptions())["classes"] == ["a", "b", "c"]
    coarse = prepare(str(source), tmp_path / "coarse", PrepareOptions(labels="coarse_labels"))
    assert coarse["classes"] == ["x", "y"]
    with pytest.raises(UserError, match=r"--labels fine: not in .*; .*fine_labels"):
        prepare(str(source), tmp_path / "none", PrepareOptions(labels="fine"))


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"_data_files": 7, "splits": 7}'])
def test_files_of_common_names_are_no_data_set(
    text: str, pixels: np.ndarray, labels: list[int], tmp_path: Path
) -> None:
    source = make_flat(tmp_path / "src", pixels, labels)
    for name in ("state.json", "dataset_dict.json", "meta"):
        (source / name).write_text(text)
    assert prepare(str(source), tmp_path / "dst", PrepareOptions(labelled=False))["count"] == N


def test_a_split_of_what_was_saved_to_disk_is_asked_for(pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_saved(tmp_path / "src" / split, pixels, labels)
    (tmp_path / "src/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match="src: choose one of --split train, --split test"):
        prepare(str(tmp_path / "src"), tmp_path / "dst", PrepareOptions())
    assert prepare(str(tmp_path / "src"), tmp_path / "dst", PrepareOptions(split="test"))["count"] == N


def test_several_categories_of_lsun_and_a_damaged_one(pixels: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    for name in ("bridge_train_lmdb", "cat"):  # no val beside: categories
        make_lmdb(tmp_path / "src" / name, pixels, labels)
    assert prepare(str(tmp_path / "src"), tmp_path / "dst", PrepareOptions())["count"] == 2 * N
    make_lmdb(tmp_path / "parts/cat_train_lmdb", pixels, labels)
    make_lmdb(tmp_path / "parts/cat_val_lmdb", pixels, labels)
    with pytest.raises(UserError, match="cat_train_lmdb, cat_val_lmdb are parts of one data set; give one folder"):
        prepare(str(tmp_path / "parts"), tmp_path / "none", PrepareOptions())
    data = tmp_path / "src/cat/data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cat/data\.mdb: damaged, or not what its name says: cut short at"):
        prepare(str(tmp_path / "src"), tmp_path / "short", PrepareOptions())
    data.write_bytes(b"no database")
    with pytest.raises(UserError, match=r"cat/data\.mdb: damaged, or not what its name says"):
        prepare(str(tmp_path / "src"), tmp_path / "other", PrepareOptions())


class Canary:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["CANARY"],)


class Setter:
    """Asks for an allowed name, and then to set attributes on it."""

    def __reduce__(self) -> tuple:
        return np.dtype, ("u1",), {"code": "O"}


@pytest.mark.parametrize("hostile", [Canary(), {b"data": Canary(), b"labels": [1]}, Setter(), [1], np.array([object])])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_never_runs(hostile: object, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "ran"))
    raw = pickle.dumps(hostile, protocol=2)
    source = tmp_path / "data_batch_1"
    if packed:
        source = tar_of(tmp_path / "c.tar.gz", {"data_batch_1": raw})
    else:
        source.write_bytes(raw)
    with pytest.raises(UserError, match=r"data_batch_1: (refused: its pickle asks for|not a batch of CIFAR-10)"):
        prepare(str(source), tmp_path / "dst", PrepareOptions())
    assert not (tmp_path / "ran").exists()


def test_a_pickled_npz_and_torn_files_are_errors_that_name_the_file(pixels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", np.array([Canary], dtype=object))
    np.savez(tmp_path / "cut.npz", pixels)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:500])
    batch = {"data_batch_1": cifar_batch(pixels, [0] * N)}
    (tmp_path / "cut.tar.gz").write_bytes(tar_of(tmp_path / "x.tar.gz", batch).read_bytes()[:400])
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "no.zip").write_bytes(b"PK")
    for name in ("o.npz", "cut.npz", "cut.tar.gz", "no.parquet", "no.zip"):
        with pytest.raises(UserError, match=name):
            prepare(str(tmp_path / name), tmp_path / f"dst-{name}", PrepareOptions())


def test_single_bad_images_are_quarantined_with_their_reason(pixels: np.ndarray, tmp_path: Path) -> None:
    folder = make_flat(tmp_path / "src", pixels, [0] * N)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(png(pixels[0])[:60])
    (folder / "big.png").write_bytes(png(pixels.reshape(-1, 80, 3)[:8, :9]))
    (folder / "._000.png").write_bytes(b"a hidden file is no image")
    reasons = quarantined(prepare(str(folder), tmp_path / "dst", PrepareOptions(), 0.5))
    assert set(reasons) == {"empty.png", "cut.png", "big.png"}
    assert reasons["empty.png"] == "zero bytes"
    assert "8x9 where 8x8 is expected (--size" in reasons["big.png"]


def test_labels_that_make_no_sense_are_quarantined(pixels: np.ndarray, tmp_path: Path) -> None:
    images = [{"bytes": png(image), "path": None} for image in pixels[:5]] + [{"bytes": None, "path": "far.png"}]
    pq.write_table(pa.table({"image": images, "label": [0, 1, -1, -7, 2, 0]}), tmp_path / "a.parquet")
    reasons = quarantined(prepare(str(tmp_path / "a.parquet"), tmp_path / "dst", PrepareOptions(), 1))
    assert reasons["a.parquet/2"] == "has no label, unlike the first image"
    assert reasons["a.parquet/3"].startswith("label -7 is outside")
    assert reasons["a.parquet/far.png"] == "its row holds no bytes"
    assert open_data(str(tmp_path / "dst")).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("make", ["nothing", "text", "picture", "missing", "wide", "prepared", "inside"])
def test_a_source_that_is_none_is_one_clear_line(make: str, pixels: np.ndarray, tmp_path: Path) -> None:
    source, dst = tmp_path / "src", tmp_path / "dst"
    expected = {"nothing": "found nothing; accepted: a folder", "text": "found notes.txt; accepted"}
    expected |= {
        "missing": "no such file or folder; did you mean .*src",
        "wide": "6 wide and 8 high, not square: give --size",
    }
    expected |= {"prepared": "already prepared", "inside": "lies inside the source"}
    expected["picture"] = f"src/a.JPG: is a single image; give the folder that it is in, {tmp_path}/src$"
    source.mkdir()
    if make == "picture":
        (source := source / "a.JPG").touch()
    if make == "text":
        (source / "notes.txt").touch()
    if make == "missing":
        source = tmp_path / "srcc"
    if make == "wide":
        (source / "a.png").write_bytes(png(pixels[0][:, :6]))
    if make == "prepared":
        prepare(str(make_flat(tmp_path / "raw", pixels, [])), source := tmp_path / "done", PrepareOptions())
    if make == "inside":
        source, dst = make_flat(tmp_path / "raw", pixels, []), tmp_path / "raw/dst"
    with pytest.raises(UserError, match=expected[make]):
        prepare(str(source), dst, PrepareOptions())
