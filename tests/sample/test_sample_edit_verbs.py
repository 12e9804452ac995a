"""`python -m act_ray.sample` and `... .edit`: what they write, what they keep, and mistakes as one line."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from PIL import Image

from act_ray import cli, settings
from act_ray.data.decoding import decode
from act_ray.data.shards import open_data
from act_ray.edit import __main__ as edit
from act_ray.models.unet import unet_arguments
from act_ray.runs.folder import RunFolder
from act_ray.sample import __main__ as sample
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks

TINY: dict[str, Any] = {  # groups of two channels: a group norm of single ones undoes what the class adds
    "model.block_out_channels": [8],
    "model.down": "D",
    "model.up": "U",
    "model.norm_num_groups": 4,
    "model.num_classes": 10,
    "discriminator.layers_per_block": 1,
    "train.total_steps": 2,
    "train.global_batch": 8,
    "train.threads": 1,
    "eval.every": 2,
    "eval.samples": 16,
    "eval.batch": 8,
    "eval.grid": 12,
    "checkpoint.every": 2,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`run`: a class-conditional ACT run on the digits; `diffusion`: a diffusion run; `color`, `broken`: for 3x8x8."""
    root, threads = tmp_path_factory.mktemp("models"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACT_RAY_CACHE", str(root / "cache"))
        cfg = settings.load("digits", TINY)
        diffusion = settings.load("digits", {**TINY, "train.method": "diffusion", "eval.ode_steps": 2})
        for name, of_run in (("run", cfg), ("diffusion", diffusion)):
            assert [*train(of_run, RunFolder(str(root / name)), Ranks())][-1]["outcome"] == "completed"
        torch.manual_seed(0)
        plain = settings.load("digits", {**TINY, "model.num_classes": None})
        unet = UNet2DModel(**unet_arguments(plain, 3, 8))
        with torch.no_grad():
            unet.conv_out.weight *= 30  # answers far outside of [-1, 1]
        pipeline = ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler())
        pipeline.save_pretrained(root / "color")
        torch.nn.init.constant_(unet.conv_out.weight, torch.nan)
        pipeline.save_pretrained(root / "broken")
        yield root
    torch.set_num_threads(threads)


class Ended:
    """Exit code and output of a verb run in this process, through cli.run as its console script does."""

    def __init__(self, capfd: pytest.CaptureFixture[str], line: str) -> None:
        capfd.readouterr()
        verb, *args = shlex.split(line)
        args += ["--cpu"] if args else []
        with pytest.raises(SystemExit) as ended:
            cli.run({"sample": sample.command, "edit": edit.command}[verb], args)
        self.code = ended.value.code
        self.out, self.err = capfd.readouterr()


@pytest.fixture
def go(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Run `VERB ...` in a folder of its own with the models beside it; returns what it says when it succeeds."""
    monkeypatch.chdir(tmp_path)
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)

    def run(line: str) -> str:
        ended = Ended(capfd, line)
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    return run


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def digit(path: Path, k: int = 0) -> np.ndarray:
    """Write a digit of the data as a file; its pixels [8,8]."""
    pixels = open_data("digits").images[k, 0]
    picture(path, pixels)
    return np.asarray(pixels)


def colors(side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 255, *range(256)], (side, side, 3)).astype(np.uint8)


def pixels_of(path: Path, mode: str) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == mode
    return np.asarray(image).astype(int)


# ---------------------------------------------------------------------------------------------- sample


@pytest.mark.parametrize("model", ["run", "diffusion"])
def test_the_default_grid_is_the_runs_own(go: Callable[[str], str], tmp_path: Path, model: str) -> None:
    out = go(f"sample {model} -n 12")
    evaluations = "1 evaluation" if model == "run" else "3 evaluations"
    assert out.startswith(f"12 samples of {tmp_path / model}, step 2, {evaluations} each, ".replace(f"{tmp_path}/", ""))
    assert out.endswith(" s: samples.png\n")
    assert (tmp_path / "samples.png").read_bytes() == (tmp_path / model / "samples" / "step-00000002.png").read_bytes()


def test_all_outputs_at_once_hold_the_same_samples(go: Callable[[str], str], tmp_path: Path) -> None:
    go("sample run -n 11 --batch 4 --nfe 2 --seed 3 --folder f --npz x.npz --grid g.png")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as saved:
        images, labels = saved["arr_0"], saved["arr_1"]
    assert images.shape == (11, 8, 8, 1)
    for i, image in enumerate(images):
        assert np.array_equal(decode((tmp_path / "f" / f"{i:06d}.png").read_bytes(), 8, 1)[0], image[..., 0])
    assert list(json.loads((tmp_path / "f" / "labels.json").read_text()).values()) == labels.tolist()
    about = json.loads((tmp_path / "f" / "samples.json").read_text())
    assert about == {**about, "seed": 3, "batch": 4, "weights": "ema", "model": "run, step 2", "images": 11}
    assert len(about["levels"]) == 1
    grid = np.asarray(Image.open(tmp_path / "g.png").convert("L"))[3::6, 3::6]
    assert np.array_equal(grid[1:9, 1:9], images[0, ..., 0])
    go(f"sample run -n 11 --batch 4 --levels {about['levels'][0]!r} --seed 3 --npz y.npz")
    assert np.array_equal(np.load(tmp_path / "y.npz", allow_pickle=False)["arr_0"], images)
    assert not (tmp_path / "samples.png").exists()


def test_weights_label_and_seed_are_used(go: Callable[[str], str], tmp_path: Path) -> None:
    found = {}
    for options in ("", "--weights model", "--label 3", "--seed 4", "--nfe 2"):
        go(f"sample run -n 4 {options} --npz x.npz --which last")
        with np.load(tmp_path / "x.npz", allow_pickle=False) as saved:
            found[options] = saved["arr_0"].tobytes()
            assert options != "--label 3" or saved["arr_1"].tolist() == [3] * 4
    assert len(set(found.values())) == 5


# ---------------------------------------------------------------------------------------------- edit


def test_inpaint_keeps_what_is_not_masked(go: Callable[[str], str], tmp_path: Path) -> None:
    before = digit(tmp_path / "a.png").astype(int)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:] = 255
    picture(tmp_path / "m.png", mask)
    out = go("edit inpaint run a.png --mask m.png --label 3 --samples 2 --steps 3 -o new/b.png")
    assert out == "new/b-1.png to b-2.png; side by side: new/b-compare.png\n"
    results = [pixels_of(tmp_path / "new" / f"b-{i}.png", "L") for i in (1, 2)]
    for result in results:
        assert np.array_equal(result[mask == 0], before[mask == 0])
        assert (result[mask > 0] != before[mask > 0]).any()
    assert (results[0] != results[1]).any()
    compare = pixels_of(tmp_path / "new" / "b-compare.png", "RGB")[6::12, 6::12, 0]
    assert compare.shape == (1 + 9, 1 + 4 * 9)
    seen = np.where(mask > 0, 86, before)  # the red of light blue
    row = [compare[1:9, 1 + 9 * k : 9 + 9 * k] for k in range(4)]
    assert all(np.array_equal(a, b) for a, b in zip(row, [before, seen, *results], strict=True))


@pytest.mark.parametrize("pattern", edit.PATTERNS)
def test_every_pattern_fills_a_part(go: Callable[[str], str], tmp_path: Path, pattern: str) -> None:
    before = picture(tmp_path / "a.png", colors())
    out = go(f"edit inpaint color a.png --pattern {pattern} --steps 1")
    assert out == "inpaint.png; side by side: inpaint-compare.png\n"
    same = (pixels_of(tmp_path / "inpaint.png", "RGB") == pixels_of(before, "RGB")).all(-1)
    filled = {"center": 16, "random": 48}.get(pattern, 32)
    assert abs((~same).sum() - filled) <= (12 if pattern == "random" else 1)
    where = np.argwhere(~same)
    if pattern in ("left", "right", "top", "bottom"):
        axis, low = {"left": (1, 1), "right": (1, 0), "top": (0, 1), "bottom": (0, 0)}[pattern]
        assert (where[:, axis] < 4).all() if low else (where[:, axis] >= 4).all()


def test_a_mask_is_cropped_with_its_image(go: Callable[[str], str], tmp_path: Path) -> None:
    """16x32 pixels, of which the middle 16x16 are seen, at half of the size."""
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 16:] = 255
    picture(tmp_path / "m.png", mask)
    picture(tmp_path / "a.png", np.full((16, 32, 3), 200, np.uint8))
    go("edit inpaint color a.png --mask m.png --steps 1")
    changed = (pixels_of(tmp_path / "inpaint.png", "RGB") != 200).any(-1)
    assert changed[:, 4:].mean() > 0.9
    assert not changed[:, :4].any()


def test_colorize_keeps_the_grey_of_the_file(go: Callable[[str], str], tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / f"{i}.png", colors(seed=i))
    go("edit colorize color 0.png 1.png --samples 2 --steps 2 -o c.png")
    results = [Image.open(tmp_path / f"c-{i}.png") for i in (1, 2, 3, 4)]
    for i, result in enumerate(results):
        grey = np.asarray(Image.open(tmp_path / f"{i // 2}.png").convert("L")).astype(int)
        assert np.abs(np.asarray(result.convert("L")).astype(int) - grey).max() <= 1
        assert np.ptp(np.asarray(result).astype(int), axis=2).max() > 50
    assert results[0].tobytes() != results[1].tobytes()
    compare = pixels_of(tmp_path / "c-compare.png", "RGB")[6::12, 6::12]
    assert compare.shape == (1 + 2 * 9, 1 + 4 * 9, 3)
    assert np.array_equal(compare[10:18, 1:9], colors(seed=1))
    assert (np.ptp(compare[10:18, 10:18], axis=2) == 0).all()


@pytest.mark.parametrize("side", [4, 8, 20])
def test_super_resolution_keeps_the_means_of_the_file(go: Callable[[str], str], tmp_path: Path, side: int) -> None:
    given = picture(tmp_path / "a.png", colors(side))
    go("edit super-resolve color a.png --factor 2 --steps 3")
    if side == 4:
        means = colors(4).astype(float)
    else:
        means = decode(given.read_bytes(), 8, 3).transpose(1, 2, 0).reshape(4, 2, 4, 2, 3).mean((1, 3))
    result = pixels_of(tmp_path / "super-resolve.png", "RGB")
    assert np.abs(result.reshape(4, 2, 4, 2, 3).mean((1, 3)) - means).max() <= 0.5
    assert np.abs(result - means.repeat(2, 0).repeat(2, 1)).max() > 10


def test_denoise_adds_noise_unless_it_is_there(go: Callable[[str], str], tmp_path: Path) -> None:
    before = digit(tmp_path / "a.png").astype(int)
    go("edit denoise run a.png --label 0 --level 0.004 -o d.png")
    assert np.abs(pixels_of(tmp_path / "d.png", "L") - before).max() <= 3
    compare = pixels_of(tmp_path / "d-compare.png", "RGB")
    assert compare.shape == (10 * 12, 28 * 12, 3)  # with what the model saw
    go("edit denoise run a.png --label 0 --level 2 --samples 2 -o d.png")
    assert (pixels_of(tmp_path / "d-1.png", "L") != pixels_of(tmp_path / "d-2.png", "L")).any()
    go("edit denoise run a.png --label 0 --level 2 --noisy --seed 1 -o e.png")
    go("edit denoise run a.png --label 0 --level 2 --noisy --seed 2 -o f.png")
    assert (tmp_path / "e.png").read_bytes() == (tmp_path / "f.png").read_bytes()  # no noise of its own
    assert (tmp_path / "e.png").read_bytes() != (tmp_path / "d-1.png").read_bytes()
    assert pixels_of(tmp_path / "e-compare.png", "RGB").shape == (10 * 12, 19 * 12, 3)


def test_stroke_follows_the_painting_the_less_the_higher_it_starts(go: Callable[[str], str], tmp_path: Path) -> None:
    before = digit(tmp_path / "a.png").astype(int)
    found = {}
    for options in ("", "--start 5.38", "--start 0.01 --steps 1", "--steps 2", "--seed 1"):
        go(f"edit stroke run a.png --label 0 {options}")
        found[options] = pixels_of(tmp_path / "stroke.png", "L")
    assert np.abs(found["--start 0.01 --steps 1"] - before).max() < 10 < np.abs(found[""] - before).max()
    assert np.array_equal(found["--start 5.38"], found["--steps 2"])
    assert (found["--start 5.38"] != found[""]).any()  # CM's second level is 2.24, not half-way down
    assert (found["--seed 1"] != found[""]).any()


def test_interpolation_ends_in_samples(go: Callable[[str], str], tmp_path: Path) -> None:
    out = go("edit interpolate run --seeds 3,8 --frames 4 --label 5 -o i.png")
    assert out == "i-1.png to i-4.png; side by side: i-compare.png\n"
    for seed, end in ((3, 1), (8, 4)):
        go(f"sample run -n 1 --batch 1 --seed {seed} --label 5 --folder s{seed}")
        want = pixels_of(tmp_path / f"s{seed}" / "000000.png", "L")
        assert np.abs(pixels_of(tmp_path / f"i-{end}.png", "L") - want).max() <= 1
    assert len({(tmp_path / f"i-{i}.png").read_bytes() for i in range(1, 5)}) == 4


def test_grey_and_colour_meet(go: Callable[[str], str], tmp_path: Path) -> None:
    picture(tmp_path / "rgb.png", colors(20))
    digit(tmp_path / "grey.png")
    go("edit inpaint run rgb.png --label 0 --steps 1 -o a.png")
    expected = decode((tmp_path / "rgb.png").read_bytes(), 8, 1)[0]
    assert np.array_equal(pixels_of(tmp_path / "a.png", "L")[:2], expected[:2])
    go("edit inpaint color grey.png --steps 1 -o b.png")
    assert (pixels_of(tmp_path / "b.png", "RGB")[:2] == digit(tmp_path / "grey.png")[:2, :, None]).all()


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sample nowhere", "nowhere: no such file or folder"),
        ("sample run --nfe 2 --levels 0.5", "--nfe 2: not with --levels"),
        ("sample run --levels 0.5,5", "--levels 0.5,5: must descend, from below T = 80 to no less than eps = 0.002"),
        ("sample run --levels 80", "--levels 80: must descend"),
        ("sample run --levels a", "--levels a: must be numbers with commas between, as 5,0.3"),
        ("sample run --label 10", "--label 10: run, step 2 has the classes 0 to 9"),
        ("sample color --label 1", "--label 1: color knows no classes"),
        (
            "sample diffusion --nfe 1",
            "--nfe: diffusion, step 2 is a diffusion run, sampled by its ODE",
        ),
        ("sample run --grid a.jpg", "--grid a.jpg: must end in .png"),
        ("sample run --npz folder.npz", "--npz folder.npz: is a folder; name a file"),
        ("sample run --folder f --npz f/x.npz", "--npz f/x.npz: lies in --folder f, which is to hold samples alone"),
        ("sample run --folder full", "full: holds other files (mine.txt); name a new folder or an empty one"),
        ("sample run --grid mine.txt/x.png", "cannot be written"),
        ("sample run -n 0", "0 is not in the range x>=1"),
        ("edit", "Missing command"),
        ("edit inpant run a.png", "No such command 'inpant'"),
        ("edit inpaint run", "Missing argument 'IMAGE...'"),
        ("edit inpaint run a.png", "inpaint: run, step 2 is class-conditional; give --label 0 to 9"),
        ("edit inpaint color none.png", "none.png: cannot be read: No such file"),
        ("edit inpaint color full", "full: cannot be read: Is a directory"),
        ("edit inpaint color mine.txt", "mine.txt: cannot be decoded: not an image of a known format"),
        ("edit inpaint color a.png --mask a.png --pattern left", "--pattern left: not with --mask a.png"),
        ("edit inpaint color a.png --mask black.png", "--mask black.png: has no white pixel"),
        (
            "edit inpaint color a.png --mask wide.png",
            "wide.png: 4x16 pixels; must be as large as a.png, 12x12",
        ),
        ("edit inpaint color a.png -o a.jpg", "--output a.jpg: must end in .png"),
        ("edit inpaint color a.png -o a.png", "--output a.png: would replace the image a.png; name another file"),
        ("edit inpaint color a.png -o mine.txt/b.png", "--output mine.txt/b.png: cannot be written"),
        ("edit inpaint diffusion a.png --label 0", "inpaint: diffusion, step 2 is a diffusion run"),
        ("edit denoise broken a.png", "broken: its images are not finite; the model is broken"),
        ("sample broken -n 2 --batch 2 --folder new", "broken: its images are not finite; the model is broken"),
        ("edit colorize run a.png --label 0", "colorize: run, step 2 makes grey images"),
        ("edit super-resolve color a.png --factor 3", "--factor 3: must divide the model's 8 pixels: 2, 4, 8"),
        (
            "edit super-resolve color tiny.png",
            "tiny.png: 5x5 pixels; give 4x4, to be enlarged 2 times",
        ),
        ("edit stroke color a.png --start 81", "--start 81: must be above eps = 0.002 and at most T = 80"),
        ("edit denoise color a.png --level -1", "--level -1: must be above eps = 0.002 and at most T = 80"),
        ("edit interpolate color --seeds 3", "--seeds 3: must be two whole numbers with a comma between, as 3,8"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, says: str, go: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("folder.npz", "full"):
        (tmp_path / name).mkdir()
    for name in ("mine.txt", "full/mine.txt"):
        (tmp_path / name).write_text("mine")
    picture(tmp_path / "a.png", colors(12))
    picture(tmp_path / "tiny.png", colors(5))
    picture(tmp_path / "black.png", np.zeros((8, 8), np.uint8))
    picture(tmp_path / "wide.png", np.full((4, 16), 255, np.uint8))
    before = sorted(tmp_path.rglob("*"))
    ended = Ended(capfd, line)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert says in ended.err
    assert sorted(tmp_path.rglob("*")) == before


def test_importing_the_verbs_loads_no_torch() -> None:
    code = "import sys, act_ray.sample, act_ray.edit; sys.exit(bool({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
