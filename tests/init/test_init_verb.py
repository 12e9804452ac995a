"""`act-ray init`: what is found out, what is chosen, and that it trains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from act_ray import settings
from act_ray.config import Config
from act_ray.data.records import LabelChoice
from act_ray.doctor.watch import child
from act_ray.init import candidates, choose, start
from act_ray.init import look as looking
from act_ray.init.candidates import Measured, Speed, measure_all
from act_ray.init.choose import Choice, Machine, Network
from act_ray.init.look import Look, look, recognise
from act_ray.init.writing import config_text
from act_ray.tune.space_files import load_space, parse_space
from tests.helpers.command import Ended

RNG = np.random.default_rng(0)
CPU = Machine(None, 2, 8 << 30, lpips=False)
GPU = Machine("a GPU", 8, 80 << 30, lpips=True)


def pictures(folder: Path, count: int, sizes: tuple[int, int] = (9, 14), colour: bool = True) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        side = RNG.integers(*sizes, 2)
        pixels = RNG.integers(0, 256, (*side, 3), dtype=np.uint8)
        pixels = pixels if colour else np.repeat(pixels[..., :1], 3, -1)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "measure_all", lambda candidates, *_: [Speed(0.1, 1 << 30)] * len(candidates))


def test_from_a_folder_to_a_training(tmp_path: Path, own_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Mixed sizes, two classes, a broken file, one picture twice; measured by real steps, and trained."""
    src, out = tmp_path / "pictures", tmp_path / "mine"
    pictures(src / "cats", 14)
    pictures(src / "dogs", 12)
    (src / "cats" / "broken.png").write_bytes(b"not an image")
    (src / "dogs" / "again.png").write_bytes((src / "cats" / "3.png").read_bytes())
    said = Ended(capfd, "init", src, "--out", out, "--hours", 0.1).succeeded()
    for line in (
        "28 images: image folder; 9 to ", "2 classes of 13 to 14 images", "1 cannot be used and are left out",
        "1 are there more than once", "prepared as 8x8: the largest that 19 of 20 images have", "a step takes ",
    ):  # fmt: skip
        assert line in said
    cfg = settings.load_file(out / "config.yaml")
    assert (cfg.model.num_classes, cfg.data.path, cfg.train.threads) == (2, str(out / "data"), 1)
    assert f"\n27 usable of 28 images: {out}/data/manifest.json lists" in said
    again = Ended(capfd, "init", src, "--out", out, "--hours", 0.1).succeeded().splitlines()
    assert again[again.index(f"{out}: is there already") + 1 :] == [
        line for line in said.splitlines()[1:] if line in again
    ]
    assert [line.split(":")[0] for line in again[-2:]] == ["train", "search"]
    assert "prepared as 8x8: the largest that 19 of 20 images have without being enlarged" in again
    assert "with another hours" in Ended(capfd, "init", src, "--out", out, "--hours", 0.2).mistake()
    whole = (out / "init.json").read_text()
    (out / "init.json").write_text(whole[:40])
    assert "init.json: cannot be read: Unterminated string" in Ended(capfd, "init", src, "--out", out).mistake()
    (out / "init.json").write_text(whole)
    shorter = [part for text in ("train.total_steps=2", "eval.every=2", "eval.samples=16") for part in ("--set", text)]
    ran = Ended(capfd, "train", "--config", out / "config.yaml", "--workers", 0, "--storage", tmp_path / "r", *shorter)
    assert "completed at step 2" in ran.succeeded()
    assert load_space(str(out / "space.yaml")).trials >= 4
    (src / "cats" / "new.png").write_bytes((src / "cats" / "3.png").read_bytes())
    assert "other files in the source" in Ended(capfd, "init", src, "--out", out, "--hours", 0.1).mistake()


def test_the_classes_are_those_of_the_prepared_images(
    tmp_path: Path, own_cache: Path, quick: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lies behind the images that are looked at counts, and so does one without an image that can be used."""
    monkeypatch.setattr(looking, "MOST", 15)
    for name in ("a", "b"):
        pictures(tmp_path / "pictures" / name, 12, (8, 9))
    for more, classes in (("none", 2), ("c", None)):
        if more == "c":
            (tmp_path / "pictures" / "c").mkdir()
            (tmp_path / "pictures" / "c" / "broken.png").write_bytes(b"not an image")
        out = tmp_path / more
        Ended(capfd, "init", tmp_path / "pictures", "--out", out).succeeded()
        assert settings.load_file(out / "config.yaml").model.num_classes == classes
        assert "# 24 images: " in (out / "config.yaml").read_text()


def test_what_is_the_users_stays(
    tmp_path: Path, own_cache: Path, quick: None, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "few", 16, (8, 9))
    out = tmp_path / "out"
    out.mkdir()
    for name in ("config.yaml", "space.yaml"):
        (out / name).write_text("mine")
        said = Ended(capfd, "init", tmp_path / "few", "--out", out).mistake()
        assert said == f"--out {out}: is not empty (found {name}); choose a new folder"
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]
        (out / name).unlink()
    Ended(capfd, "init", tmp_path / "few", "--out", out).succeeded()
    (out / "space.yaml").unlink()  # as when it was killed before that was written
    Ended(capfd, "init", tmp_path / "few", "--out", out).succeeded()
    assert (out / "space.yaml").exists()


def test_the_advice_for_too_few_hours_can_be_followed(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The size goes with the hours, and the images are prepared in that of the first call."""
    monkeypatch.setattr(candidates, "measure_all", lambda candidates, *_: [Speed(30.0, 1 << 30)] * len(candidates))
    pictures(tmp_path / "few", 16, (40, 41))
    call = ("init", tmp_path / "few", "--out", tmp_path / "out", "--cpu", "--hours")
    said = Ended(capfd, *call, 0.4).mistake()
    assert said.endswith("give 0.99 at least, with --size 16 as it is prepared, or with another --out")
    Ended(capfd, *call, 0.99, "--size", 16).succeeded()


def test_only_memory_ends_the_measuring_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill is how it runs out; a crash is ours, and no reason to take a smaller network."""
    cfg, measured = settings.load("digits"), """print('{"seconds": 1.0, "memory": 5}', flush=True)\n"""
    for then, error in (
        ("import os; os.kill(os.getpid(), 9)", None),
        ("raise IndexError('ours')", "code 1: IndexError"),
    ):
        monkeypatch.setattr(candidates, "child", lambda *_, code=measured + then: child("-c", code))
        if error is None:
            assert measure_all([cfg] * 2, False, print, lambda _: False) == [Speed(1.0, 5)]
            continue
        with pytest.raises(RuntimeError, match=error):
            measure_all([cfg] * 2, False, print, lambda _: False)


def test_what_was_measured_before_an_interruption_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, of the same settings, on the same machine."""
    took = list[int]()

    def interrupted(cfgs: list[Config], gpu: object, say: object, enough: Callable[[Speed], bool]) -> list[Speed]:
        took.append(len(cfgs))
        enough(Speed(float(len(cfgs)), 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "measure_all", interrupted)
    cfgs = [settings.load("digits", {"train.seed": seed}) for seed in range(3)]
    for machine in ("a", "a", "a", "b"):
        with pytest.raises(KeyboardInterrupt):
            Measured(tmp_path / "speeds", machine, print)(cfgs, False, lambda _: False)
    assert took == [3, 2, 1, 3]
    found = Measured(tmp_path / "speeds", "a", print)(cfgs, False, lambda _: False)
    assert [speed.seconds for speed in found] == [3.0, 2.0, 1.0]
    assert Measured(tmp_path / "speeds", "a", print)(cfgs, False, lambda speed: speed.seconds < 3) == found[:2]


def test_all_cores_for_a_step_only_where_trials_side_by_side_do_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step that 64 cores make twice as fast a single training has more, a search less."""
    took = {1: 1.0, None: 0.45}
    monkeypatch.setattr(candidates, "measure_all", lambda cfgs, *_: [Speed(took[cfg.train.threads], 1) for cfg in cfgs])
    found, machine = Look("x", 100, True, (8, 8, 8), True, 1, (), (), 0), Machine(None, 64, 8 << 30, lpips=False)
    chosen = [start.measured(found, machine, 8, "x", 5.0, print, search)[0].threads for search in (False, True)]
    assert chosen == [None, 1]


def test_the_training_part_is_taken_and_grey_is_seen(
    tmp_path: Path, own_cache: Path, quick: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "COLOURS", 15)
    for part in ("train", "val"):
        pictures(tmp_path / "set" / part, 20, (16, 17), colour=False)
    said = Ended(capfd, "init", tmp_path / "set", "--out", tmp_path / "out").succeeded()
    assert "--split train is taken: " in said
    assert "20 images: image folder; 16x16; grey" in said
    assert "prepared as 16x16: as they are" in said
    cfg = settings.load_file(tmp_path / "out" / "config.yaml")
    assert (cfg.data.flip, cfg.model.num_classes) == (False, None)


def test_mistakes(tmp_path: Path, own_cache: Path, quick: None, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "few", 16, (8, 9))
    for arguments, said in (
        ((tmp_path / "nowhere",), "no such file or folder"),
        ((tmp_path / "empty",), "found nothing; accepted: a folder of images"),
        ((tmp_path / "few", "--hours", 0.0005), "--hours 0.0005: 15 steps of this machine; give 0.0033 at least"),
        ((tmp_path / "few", "--labels", "x", "--no-labels"), "--labels x: not with --no-labels"),
    ):  # fmt: skip
        assert said in Ended(capfd, "init", *arguments, "--out", tmp_path / "out").mistake()


def test_labels_that_could_be_several_things_are_left_out(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures(tmp_path / "p", 2, (8, 9))
    images = [{"bytes": (tmp_path / "p" / f"{i}.png").read_bytes(), "path": None} for i in range(2)]
    pq.write_table(pa.table({"image": images, "label": [0, 1], "class": [1, 0]}), tmp_path / "two.parquet")
    source, _, choice, decided = recognise(str(tmp_path / "two.parquet"), None, LabelChoice())
    assert (choice.wanted, look(source, only_grey=False).labels) == (False, ())
    assert decided is not None
    assert decided.startswith("--no-labels is taken: ")


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("hours", [0.1, 5, 100])
def test_all_choices_go_together(machine: Machine, hours: float) -> None:
    for size in (8, 28, 64, 256):
        for width in (16, 64):
            found = Look("x", 5_000, True, (size, size, size), True, 3, (2500, 2500), (), 0)
            net, speed = Network(width, 32, None), Speed(0.2, 2 << 30)
            chosen = [Choice("data.path", "x", ""), *choose.choices(found, machine, size, net, speed, hours)]
            cfg = settings.build(yaml_config(chosen))
            assert size % 2 ** (len(cfg.model.down) - 1) == 0
            assert cfg.train.total_steps * 0.2 <= hours * 3600
            space = parse_space({"preset": "digits", **choose.search_space(chosen, found, speed, 2, hours)}, "x")
            steps = space.example().train.total_steps * space.trials * choose.SHARE
            assert steps * speed.seconds <= 2 * hours * 3600


def yaml_config(chosen: list[Choice]) -> dict[str, object]:
    """Read again as it is written."""
    return settings.merge(settings.base_values("digits", None), yaml.safe_load(config_text("digits", chosen, [])))


@pytest.mark.parametrize(
    ("sides", "same", "gpu", "hours", "size"),
    [
        ((32, 32, 32), True, False, 1, 32), ((28, 28, 28), True, False, 1, 28), ((32, 32, 32), True, False, 0.1, 16),
        ((40, 300, 900), False, False, 1, 32), ((40, 300, 900), False, True, 30, 32),
        ((300, 400, 900), False, True, 5, 128),
        ((256, 256, 256), True, True, 100, 256), ((5, 9, 20), False, False, 1, 8), ((30, 30, 30), True, False, 1, 28),
    ],
)  # fmt: skip
def test_the_size_goes_with_the_images_and_the_time(
    sides: tuple[int, int, int], same: bool, gpu: bool, hours: float, size: int
) -> None:
    found = Look("x", 5_000, True, sides, same, 3, (), (), 0)
    assert choose.image_size(found, hours, gpu)[0] == size


def test_hours_are_written_as_people_write_them() -> None:
    texts = [choose.time_text(hours) for hours in (0.013244, 0.3, 1.0, 8.0, 7.123456)]
    assert texts == ["47.7 seconds", "18 minutes", "60 minutes", "8 hours", "7.12 hours"]


def test_a_size_that_no_network_fits_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = Ended(capfd, "init", tmp_path, "--out", tmp_path / "out", "--size", 15).mistake()
    assert said == "--size 15: must be a multiple of 4; the nearest is 16"


def test_too_few_images_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "few", 5, (8, 9))
    said = Ended(capfd, "init", tmp_path / "few", "--out", tmp_path / "out").mistake()
    assert said == "5 images can be used, and 16 are the least that a model is scored against"
