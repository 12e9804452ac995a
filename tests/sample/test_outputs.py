"""Samples batch by batch, and the files that they are written to: whole or absent, and nothing else beside them."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from act_ray import settings
from act_ray.core.consistency import multistep
from act_ray.data import decoding as data_images
from act_ray.errors import UserError
from act_ray.generators.generator import Generator, Kind
from act_ray.models.unet import UNet
from act_ray.pictures import to_uint8
from act_ray.sample.outputs import Add, draw_samples, grid_file, npz_file, png_folder
from tests.helpers.tiny_settings import PAIRED


def untrained(classes: int | None = None, channels: int = 1) -> Generator:
    """An untrained network as if read from somewhere."""
    torch.manual_seed(0)
    cfg = settings.load("digits", {**PAIRED, "model.num_classes": classes})
    tensors = UNet(cfg, channels, 8).unet.state_dict()
    return Generator(
        cfg, (channels, 8, 8), tensors, "here", Kind.CONSISTENCY, label_counts=[1, 3, 0] if classes else None
    )


def draw(source: Generator, n: int, **more: object) -> tuple[np.ndarray, np.ndarray | None]:
    model = source.build(torch.device("cpu"))
    parts = list(draw_samples(model, source, n, **{"batch": 4, "seed": 1, **more}))  # type: ignore[arg-type]
    labels = [part[1] for part in parts if part[1] is not None]
    return np.concatenate([part[0] for part in parts]), np.concatenate(labels) if labels else None


def drawn(n: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, 8, 8), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize(("classes", "levels"), [(None, ()), (None, (0.5,)), (3, ()), (3, (5.0, 0.5))])
def test_a_sample_does_not_depend_on_how_many_there_are(classes: int | None, levels: tuple[float, ...]) -> None:
    source = untrained(classes)
    many, labels = draw(source, 11, levels=levels)
    for n in (1, 6):
        fewer, some = draw(source, n, levels=levels)
        assert fewer.shape == (n, 1, 8, 8)
        assert np.abs(fewer.astype(int) - many[:n]).max() <= 1  # a smaller batch may round elsewhere
        assert (some is None) == (classes is None)
        assert classes is None or some.tolist() == labels[:n].tolist()
    assert len(np.unique(many, axis=0)) == 11
    assert not np.array_equal(many[:1], draw(source, 1, levels=levels, seed=2)[0])


def test_the_labels_are_those_that_the_model_was_told() -> None:
    source = untrained(3)
    model = source.build(torch.device("cpu"))
    images, labels = draw(source, 40, batch=40)
    assert labels is not None
    assert set(labels.tolist()) == {0, 1}  # class 2 has no images in the data
    z = torch.from_numpy(np.random.default_rng([1, 0]).standard_normal((40, 1, 8, 8), dtype=np.float32))
    again = to_uint8(multistep(model, [z], [], source.cfg.schedule, torch.from_numpy(labels)))
    assert np.array_equal(images, again.numpy())
    ((one, all_two),) = draw_samples(model, source, 40, batch=40, seed=1, label=2)
    assert all_two is not None
    assert set(all_two.tolist()) == {2}
    assert not np.array_equal(one, images)
    assert not model._forward_hooks


# ---------------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_holds_what_evaluation_suites_read(tmp_path: Path, channels: int) -> None:
    images, path = drawn(7, channels), tmp_path / "new" / "x.npz"
    with npz_file(path, 7, (channels, 8, 8)) as add:
        for part in np.split(images, [3, 6]):
            add(part, np.arange(len(part)))
            assert not path.exists()
    with np.load(path, allow_pickle=False) as saved:
        assert saved.files == ["arr_0", "arr_1"]
        assert saved["arr_0"].dtype == np.uint8
        assert np.array_equal(saved["arr_0"], images.transpose(0, 2, 3, 1))
        assert saved["arr_1"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]
    with npz_file(path, 7, (channels, 8, 8)) as add:
        add(images, None)
    assert np.load(path, allow_pickle=False).files == ["arr_0"]


def interrupted(output: AbstractContextManager[Add]) -> None:
    with output as add:
        add(drawn(2), None)
        raise KeyboardInterrupt


def test_an_interrupt_leaves_what_was_there(tmp_path: Path) -> None:
    folder, npz, grid = tmp_path / "f", tmp_path / "x.npz", tmp_path / "g.png"
    npz.write_text("old")
    for output in (png_folder(folder, {}), npz_file(npz, 4, (1, 8, 8)), grid_file(grid)):
        with pytest.raises(KeyboardInterrupt):
            interrupted(output)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    assert npz.read_text() == "old"


# ---------------------------------------------------------------------------------------------- folder


def fill(folder: Path, images: np.ndarray, labels: np.ndarray | None = None) -> list[str]:
    with png_folder(folder, {"seed": 5}, overwrite=True) as add:
        for i in range(0, len(images), 2):
            add(images[i : i + 2], None if labels is None else labels[i : i + 2])
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_holds_the_images_and_labels(tmp_path: Path, channels: int) -> None:
    images = drawn(3, channels)
    names = fill(tmp_path / "a" / "f", images, np.array([2, 0, 2]))
    assert names == ["000000.png", "000001.png", "000002.png", "labels.json", "samples.json"]
    for i, image in enumerate(images):
        raw = (tmp_path / "a" / "f" / names[i]).read_bytes()
        assert np.array_equal(data_images.decode(raw, 8, channels), image)
    read = {name: json.loads((tmp_path / "a" / "f" / name).read_text()) for name in names[3:]}
    assert read["labels.json"] == {"000000.png": 2, "000001.png": 0, "000002.png": 2}
    assert read["samples.json"] == {"seed": 5, "images": 3}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["f"]


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    fill(tmp_path / "f", drawn(5), np.zeros(5, int))
    assert fill(tmp_path / "f", drawn(2)) == ["000000.png", "000001.png", "samples.json"]
    (tmp_path / "empty").mkdir()
    assert len(fill(tmp_path / "empty", drawn(2))) == 3


@pytest.mark.parametrize("stranger", ["cat.jpg", "000000.png", "old/000000.png", ".hidden"])
def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path, stranger: str) -> None:
    file = tmp_path / "f" / stranger
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=f"holds other files .{stranger.partition('/')[0]}.; name a new folder"):
        png_folder(tmp_path / "f", {}).__enter__()  # before a sample is drawn
    assert file.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    with pytest.raises(UserError, match="is a file; name a new folder"):
        fill(file, drawn(2))


def test_a_stranger_beside_ours_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "f", drawn(2))
    (tmp_path / "f" / "real.png").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files .real\.png."):
        fill(tmp_path / "f", drawn(1))
    assert len(list((tmp_path / "f").iterdir())) == 4


# ---------------------------------------------------------------------------------------------- grid


@pytest.mark.parametrize(("n", "columns", "rows"), [(3, 8, 1), (64, 8, 8), (100, 10, 10), (300, 16, 16)])
def test_a_grid_shows_the_first_images(tmp_path: Path, n: int, columns: int, rows: int) -> None:
    images, path = drawn(n), tmp_path / "new" / "g.png"
    with grid_file(path) as add:
        for part in np.array_split(images, 3):
            add(part, None)
    picture = Image.open(path)
    assert picture.size == ((columns * 9 + 1) * 6, (rows * 9 + 1) * 6)
    small = np.asarray(picture.convert("L"))[3::6, 3::6]
    for i in (0, min(n, 256) - 1):
        top, left = 1 + i // columns * 9, 1 + i % columns * 9
        assert np.array_equal(small[top : top + 8, left : left + 8], images[i, 0])
