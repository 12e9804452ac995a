"""Labels of foreign data sets: read, or asked about, or told of; never dropped without a word."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from act_ray.data.shards import open_data
from tests.helpers.command import Ended
from tests.helpers.sources import make_flat, make_folder, png, tar_of, zip_of

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = ["cat", "dog", "ant"]  # sorted: ant, cat, dog


class Prepared:
    """`act-ray prepare SRC DST ...` with what it made, or the line of its mistake."""

    def __init__(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.dst, self.capfd, self.said = tmp_path / "dst", capfd, ""

    def __call__(self, src: Path, *args: object) -> tuple[object, list[int] | None]:
        """The classes in the manifest, and the labels."""
        self.said = Ended(self.capfd, "prepare", src, self.dst, *args).succeeded()
        labels = open_data(str(self.dst)).labels
        classes = json.loads((self.dst / "manifest.json").read_text())["classes"]
        return classes, None if labels is None else labels.tolist()

    def mistake(self, src: Path, *args: object) -> str:
        line = Ended(self.capfd, "prepare", src, self.dst, *args).mistake()
        assert not self.dst.exists()
        return line


@pytest.fixture
def prepared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Prepared:
    return Prepared(tmp_path, capfd)


# ---------------------------------------------------------------------------------------------- train/ and val/


@pytest.fixture
def splits(tmp_path: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    """As torchvision's ImageFolder wants them: 6 images in train/, 4 in val/, the classes below both."""
    make_folder(tmp_path / "src/train", pixels[:6], labels[:6])
    make_folder(tmp_path / "src/val", pixels[6:], labels[6:])
    return tmp_path / "src"


def test_train_and_val_are_not_classes(splits: Path, prepared: Prepared) -> None:
    line = prepared.mistake(splits)
    assert "train and val look like parts of one data set, not like classes" in line
    assert "--split train, --split val, --split all" in line
    assert "choose one of" in prepared.mistake(splits, "--only", "train/*")


def test_one_split_has_the_classes_below_it(splits: Path, prepared: Prepared) -> None:
    assert prepared(splits, "--split", "train") == (["class0", "class1", "class2"], [0, 0, 1, 1, 2, 2])


def test_all_splits_share_their_classes(splits: Path, prepared: Prepared) -> None:
    for file in (splits / "val/class1").iterdir():
        file.unlink()
    classes, labels = prepared(splits, "--split", "all")
    assert classes == ["class0", "class1", "class2"]
    assert labels == [0, 0, 1, 1, 2, 2, 0, 0, 2]


def test_a_split_that_is_not_there(splits: Path, prepared: Prepared) -> None:
    assert "--split tran: no such folder in" in (line := prepared.mistake(splits, "--split", "tran"))
    assert "did you mean 'train'?" in line
    (splits / "a.zip").touch()
    assert "is no folder; --only takes a part" in prepared.mistake(splits / "a.zip", "--split", "train")


def test_a_class_called_train_beside_others_is_one(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    src = make_folder(tmp_path / "src", pixels, labels)
    (src / "class1").rename(src / "train")
    assert prepared(src)[0] == ["class0", "class2", "train"]


# ---------------------------------------------------------------------------------------------- Parquet


def parquet(folder: Path, pixels: np.ndarray, **columns: list[Any]) -> Path:
    """Two files, as `datasets` writes them."""
    folder.mkdir(parents=True)
    images = [{"bytes": png(image), "path": None} for image in pixels]
    for part, rows in (("train-0", slice(0, 4)), ("train-1", slice(4, None))):
        table = {"image": images[rows], **{name: values[rows] for name, values in columns.items()}}
        pq.write_table(pa.table(table), folder / f"{part}.parquet")
    return folder


def names(labels: list[int]) -> list[str]:
    return [NAMES[label] for label in labels]


def positions(labels: list[int]) -> list[int]:
    return [sorted(NAMES).index(NAMES[label]) for label in labels]


def test_text_in_parquet_becomes_classes(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    src = parquet(tmp_path / "src", pixels, label=names(labels))
    assert prepared(src) == (sorted(NAMES), positions(labels))


def test_dictionaries_of_text_and_a_column_of_any_name(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    images = [png(image) for image in pixels]
    kind = pa.array(names(labels)).dictionary_encode()
    pq.write_table(pa.table({"image": images, "breed": kind}), tmp_path / "a.parquet")
    assert prepared(tmp_path / "a.parquet", "--labels", "breed") == (sorted(NAMES), positions(labels))


def test_two_columns_of_labels_are_a_choice(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    src = parquet(tmp_path / "src", pixels, fine_label=labels, coarse_label=[0] * len(labels))
    line = prepared.mistake(src)
    assert "fine_label and coarse_label could each be the label" in line
    assert "--labels fine_label, --labels coarse_label, --no-labels" in line
    assert "did you mean 'fine_label'?" in prepared.mistake(src, "--labels", "finelabel")
    assert prepared(src, "--labels", "fine_label") == (3, labels)


def test_labels_are_left_out_when_asked(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    src = make_folder(tmp_path / "src", pixels, labels)
    assert "--labels x: not for image folder" in prepared.mistake(src, "--labels", "x")
    assert prepared(src, "--no-labels") == (0, None)
    assert "leave one out" in Ended(prepared.capfd, "prepare", "a", "b", "--labels", "x", "--no-labels").mistake()


def test_lists_are_no_labels(tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared) -> None:
    src = parquet(tmp_path / "src", pixels, labels=[[label] for label in labels])
    assert "its column labels of list<" in prepared.mistake(src)
    assert prepared(src, "--no-labels") == (0, None)


def test_columns_that_look_like_no_label_are_told_of(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    src = parquet(tmp_path / "src", pixels, caption=names(labels))
    assert prepared(src) == (0, None)
    assert "nothing looks like a label, so there are none; --labels NAME takes one of caption" in prepared.said


# ---------------------------------------------------------------------------------------------- WebDataset


def webdataset(path: Path, pixels: np.ndarray, suffix: str, contents: list[str]) -> Path:
    members: dict[str, bytes] = {}
    for i, (image, content) in enumerate(zip(pixels, contents, strict=True)):
        members |= {f"{i:03d}.png": png(image), f"{i:03d}{suffix}": content.encode()}
    return tar_of(path, members)


@pytest.mark.parametrize("suffix", [".cls", ".json"])
def test_text_in_webdataset_becomes_classes(
    suffix: str, tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    contents = names(labels) if suffix == ".cls" else [json.dumps({"label": name, "w": 8}) for name in names(labels)]
    src = webdataset(tmp_path / "a.tar", pixels, suffix, contents)
    assert prepared(src) == (sorted(NAMES), positions(labels))


def test_numbers_in_json(tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared) -> None:
    contents = [json.dumps({"cls": label, "class_name": NAMES[label], "w": 8}) for label in labels]
    src = webdataset(tmp_path / "a.tar", pixels, ".json", contents)
    assert "cls and class_name could each be the label" in prepared.mistake(src)
    assert prepared(src, "--labels", "cls") == (3, labels)


def test_json_without_a_label_is_told_of(tmp_path: Path, pixels: np.ndarray, prepared: Prepared) -> None:
    contents = [json.dumps({"caption": "a dog"})] * len(pixels)
    assert prepared(webdataset(tmp_path / "a.tar", pixels, ".json", contents)) == (0, None)
    assert "--labels NAME takes one of caption" in prepared.said


def test_one_label_that_is_missing_is_quarantined(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    contents = [*(json.dumps({"label": name}) for name in names(labels[:-1])), "{}"]
    src = webdataset(tmp_path / "a.tar", pixels, ".json", contents)
    assert prepared(src, "--max-bad", "0.2") == (sorted(NAMES), positions(labels[:-1]))
    (entry,) = json.loads((prepared.dst / "manifest.json").read_text())["quarantined"]
    assert entry == {"name": "009.png", "reason": "has no label, unlike the first image"}


# ---------------------------------------------------------------------------------------------- the others


def test_a_table_beside_a_flat_folder(tmp_path: Path, pixels: np.ndarray, prepared: Prepared) -> None:
    src = make_flat(tmp_path / "src", pixels, [])
    with (src / "labels.csv").open("w") as file:
        csv.writer(file).writerows([["file", "label"], ["000.png", 1]])
    assert "labels.csv beside the images may hold labels" in prepared.mistake(src)
    assert prepared(src, "--no-labels") == (0, None)


def test_a_zip_of_class_folders(tmp_path: Path, pixels: np.ndarray, prepared: Prepared) -> None:
    src = zip_of(tmp_path / "a.zip", {f"data/{NAMES[i % 3]}/{i}.png": png(image) for i, image in enumerate(pixels)})
    assert "its folders ant, cat, dog look like classes" in prepared.mistake(src)
    assert prepared(src, "--no-labels") == (0, None)


def test_an_npz_with_labels_of_another_name(
    tmp_path: Path, pixels: np.ndarray, labels: list[int], prepared: Prepared
) -> None:
    np.savez(tmp_path / "a.npz", arr_0=pixels, y=np.array(labels))
    assert "read from arr_1, and it has y" in prepared.mistake(tmp_path / "a.npz")
    assert prepared(tmp_path / "a.npz", "--no-labels") == (0, None)
