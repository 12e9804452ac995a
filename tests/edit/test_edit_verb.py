"""`python -m act_ray.edit`: what it writes, what it keeps of the images, and mistakes as one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from act_ray.data.decoding import decode
from act_ray.data.shards import open_data
from act_ray.edit.__main__ import PATTERNS
from tests.helpers.trained_models import call, colors, picture, pixels_of


def digit(path: Path, k: int = 0) -> np.ndarray:
    """Write a digit of the data as a file; its pixels [8,8]."""
    pixels = open_data("digits").images[k, 0]
    picture(path, pixels)
    return np.asarray(pixels)


# ---------------------------------------------------------------------------------------------- edit


def test_inpaint_keeps_what_is_not_masked(succeed: Callable[[str], str], tmp_path: Path) -> None:
    before = digit(tmp_path / "a.png").astype(int)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:] = 255
    picture(tmp_path / "m.png", mask)
    out = succeed("edit inpaint run a.png --mask m.png --label 3 --samples 2 --steps 3 -o new/b.png")
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


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_fills_a_part(succeed: Callable[[str], str], tmp_path: Path, pattern: str) -> None:
    before = picture(tmp_path / "a.png", colors())
    out = succeed(f"edit inpaint color a.png --pattern {pattern} --steps 1")
    assert out == "inpaint.png; side by side: inpaint-compare.png\n"
    same = (pixels_of(tmp_path / "inpaint.png", "RGB") == pixels_of(before, "RGB")).all(-1)
    filled = {"center": 16, "random": 48}.get(pattern, 32)
    assert abs((~same).sum() - filled) <= (12 if pattern == "random" else 1)
    where = np.argwhere(~same)
    if pattern in ("left", "right", "top", "bottom"):
        axis, low = {"left": (1, 1), "right": (1, 0), "top": (0, 1), "bottom": (0, 0)}[pattern]
        assert (where[:, axis] < 4).all() if low else (where[:, axis] >= 4).all()


def test_a_mask_is_cropped_with_its_image(succeed: Callable[[str], str], tmp_path: Path) -> None:
    """16x32 pixels, of which the middle 16x16 are seen, at half of the size."""
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 16:] = 255
    picture(tmp_path / "m.png", mask)
    picture(tmp_path / "a.png", np.full((16, 32, 3), 200, np.uint8))
    succeed("edit inpaint color a.png --mask m.png --steps 1")
    changed = (pixels_of(tmp_path / "inpaint.png", "RGB") != 200).any(-1)
    assert changed[:, 4:].mean() > 0.9
    assert not changed[:, :4].any()


def test_colorize_keeps_the_grey_of_the_file(succeed: Callable[[str], str], tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / f"{i}.png", colors(seed=i))
    succeed("edit colorize color 0.png 1.png --samples 2 --steps 2 -o c.png")
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
def test_super_resolution_keeps_the_means_of_the_file(succeed: Callable[[str], str], tmp_path: Path, side: int) -> None:
    given = picture(tmp_path / "a.png", colors(side))
    succeed("edit super-resolve color a.png --factor 2 --steps 3")
    if side == 4:
        means = colors(4).astype(float)
    else:
        means = decode(given.read_bytes(), 8, 3).transpose(1, 2, 0).reshape(4, 2, 4, 2, 3).mean((1, 3))
    result = pixels_of(tmp_path / "super-resolve.png", "RGB")
    assert np.abs(result.reshape(4, 2, 4, 2, 3).mean((1, 3)) - means).max() <= 0.5
    assert np.abs(result - means.repeat(2, 0).repeat(2, 1)).max() > 10


def test_denoise_adds_noise_unless_it_is_there(succeed: Callable[[str], str], tmp_path: Path) -> None:
    before = digit(tmp_path / "a.png").astype(int)
    succeed("edit denoise run a.png --label 0 --level 0.004 -o d.png")
    assert np.abs(pixels_of(tmp_path / "d.png", "L") - before).max() <= 3
    compare = pixels_of(tmp_path / "d-compare.png", "RGB")
    assert compare.shape == (10 * 12, 28 * 12, 3)  # with what the model saw
    succeed("edit denoise run a.png --label 0 --level 2 --samples 2 -o d.png --overwrite")
    assert (pixels_of(tmp_path / "d-1.png", "L") != pixels_of(tmp_path / "d-2.png", "L")).any()
    succeed("edit denoise run a.png --label 0 --level 2 --noisy --seed 1 -o e.png")
    succeed("edit denoise run a.png --label 0 --level 2 --noisy --seed 2 -o f.png")
    assert (tmp_path / "e.png").read_bytes() == (tmp_path / "f.png").read_bytes()  # no noise of its own
    assert (tmp_path / "e.png").read_bytes() != (tmp_path / "d-1.png").read_bytes()
    assert pixels_of(tmp_path / "e-compare.png", "RGB").shape == (10 * 12, 19 * 12, 3)


def test_stroke_follows_the_painting_the_less_the_higher_it_starts(
    succeed: Callable[[str], str], tmp_path: Path
) -> None:
    before = digit(tmp_path / "a.png").astype(int)
    found = {}
    for options in ("", "--start 5.38", "--start 0.01 --steps 1", "--steps 2", "--seed 1"):
        succeed(f"edit stroke run a.png --label 0 --overwrite {options}")
        found[options] = pixels_of(tmp_path / "stroke.png", "L")
    assert np.abs(found["--start 0.01 --steps 1"] - before).max() < 10 < np.abs(found[""] - before).max()
    assert np.array_equal(found["--start 5.38"], found["--steps 2"])
    assert (found["--start 5.38"] != found[""]).any()  # CM's second level is 2.24, not half-way down
    assert (found["--seed 1"] != found[""]).any()


def test_interpolation_ends_in_samples(succeed: Callable[[str], str], tmp_path: Path) -> None:
    out = succeed("edit interpolate run --seeds 3,8 --frames 4 --label 5 -o i.png")
    assert out == "i-1.png to i-4.png; side by side: i-compare.png\n"
    for seed, end in ((3, 1), (8, 4)):
        succeed(f"sample run -n 1 --batch 1 --seed {seed} --label 5 -o s{seed}")
        want = pixels_of(tmp_path / f"s{seed}" / "000000.png", "L")
        assert np.abs(pixels_of(tmp_path / f"i-{end}.png", "L") - want).max() <= 1
    assert len({(tmp_path / f"i-{i}.png").read_bytes() for i in range(1, 5)}) == 4


def test_grey_and_colour_meet(succeed: Callable[[str], str], tmp_path: Path) -> None:
    picture(tmp_path / "rgb.png", colors(20))
    digit(tmp_path / "grey.png")
    succeed("edit inpaint run rgb.png --label 0 --steps 1 -o a.png")
    expected = decode((tmp_path / "rgb.png").read_bytes(), 8, 1)[0]
    assert np.array_equal(pixels_of(tmp_path / "a.png", "L")[:2], expected[:2])
    succeed("edit inpaint color grey.png --steps 1 -o b.png")
    assert (pixels_of(tmp_path / "b.png", "RGB")[:2] == digit(tmp_path / "grey.png")[:2, :, None]).all()


def test_clip_clamps_f_at_every_evaluation(succeed: Callable[[str], str], tmp_path: Path) -> None:
    picture(tmp_path / "a.png", colors())
    for options in ("", "--clip", "--no-clip"):
        succeed(f"edit stroke color a.png --steps 3 {options} -o out{options}.png")
    outs = {options: (tmp_path / f"out{options}.png").read_bytes() for options in ("", "--clip", "--no-clip")}
    assert outs[""] == outs["--no-clip"] != outs["--clip"]


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "says"),
    [
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
        ("edit inpaint color a.png -o a.jpg", "--out a.jpg: must end in .png"),
        ("edit inpaint color a.png -o a.png", "--out a.png: would replace the image a.png; name another file"),
        (
            "edit inpaint color a.png -o wide.png",
            "--out wide.png: is there already; name another file, or --overwrite it",
        ),
        ("edit inpaint color a.png --out x.png", "--out x-compare.png: is there already"),
        ("edit interpolate color --seeds 3,8 -o y.png", "--out y-9.png: is there already"),
        ("edit inpaint color a.png -o mine.txt/b.png", "--out mine.txt/b.png: cannot be written"),
        (
            "edit inpaint diffusion a.png --label 0",
            "inpaint: diffusion, step 2 is a denoiser; give a consistency model",
        ),
        ("edit denoise broken a.png", "broken: its images are not finite; the model is broken"),
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
    line: str, says: str, succeed: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    for name in ("mine.txt", "full/mine.txt"):
        (tmp_path / name).write_text("mine")
    picture(tmp_path / "a.png", colors(12))
    picture(tmp_path / "tiny.png", colors(5))
    picture(tmp_path / "black.png", np.zeros((8, 8), np.uint8))
    picture(tmp_path / "wide.png", np.full((4, 16), 255, np.uint8))
    for name in ("x-compare.png", "y-9.png"):
        picture(tmp_path / name, colors(5))
    before = sorted(tmp_path.rglob("*"))
    assert says in call(capfd, line).mistake()
    assert sorted(tmp_path.rglob("*")) == before
