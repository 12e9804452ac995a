"""`python -m act_ray.sample`: what it writes, what it computes for it, and mistakes as one line."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from act_ray.data.decoding import decode
from act_ray.models.unet import UNet
from tests.helpers.trained_models import call, colors, picture

# ---------------------------------------------------------------------------------------------- sample


@pytest.mark.parametrize("model", ["run", "diffusion"])
def test_the_default_grid_is_the_runs_own(succeed: Callable[[str], str], tmp_path: Path, model: str) -> None:
    out = succeed(f"sample {model} -n 12")
    evaluations = "1 evaluation" if model == "run" else "3 evaluations"
    assert out.startswith(f"12 samples of {tmp_path / model}, step 2, {evaluations} each, ".replace(f"{tmp_path}/", ""))
    assert out.endswith(" s: samples.png\n")
    assert (tmp_path / "samples.png").read_bytes() == (tmp_path / model / "samples" / "step-00000002.png").read_bytes()


def test_all_outputs_at_once_hold_the_same_samples(succeed: Callable[[str], str], tmp_path: Path) -> None:
    succeed("sample run -n 11 --batch 4 --nfe 2 --seed 3 -o f -o x.npz -o g.png")
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
    succeed(f"sample run -n 11 --batch 4 --levels {about['levels'][0]!r} --seed 3 --out y.npz")
    assert np.array_equal(np.load(tmp_path / "y.npz", allow_pickle=False)["arr_0"], images)
    assert not (tmp_path / "samples.png").exists()


def test_weights_label_and_seed_are_used(succeed: Callable[[str], str], tmp_path: Path) -> None:
    found = {}
    for options in ("", "--weights model", "--weights teacher", "--label 3", "--seed 4", "--nfe 2"):
        succeed(f"sample run -n 4 {options} -o x.npz --overwrite --which last")
        with np.load(tmp_path / "x.npz", allow_pickle=False) as saved:
            found[options] = saved["arr_0"].tobytes()
            assert options != "--label 3" or saved["arr_1"].tolist() == [3] * 4
    assert len(set(found.values())) == 6


def test_only_what_is_asked_for_is_evaluated(
    succeed: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is what a whole batch begins with."""
    evaluated: list[int] = []
    forward = UNet.forward

    def counting(self: UNet, x: Tensor, *rest: Any) -> Tensor:
        evaluated.append(len(x))
        return forward(self, x, *rest)

    monkeypatch.setattr(UNet, "forward", counting)
    for model, options, evaluations in (("run", "", 1), ("run", "--nfe 2", 2), ("diffusion", "", 3)):
        for count in (2, 7):
            evaluated.clear()
            succeed(f"sample {model} -n {count} --batch 5 {options} -o {count}.npz --overwrite")
            assert sum(evaluated) == count * evaluations
        few, many = (np.load(tmp_path / f"{count}.npz")["arr_0"].astype(int) for count in (2, 7))
        assert np.abs(few - many[:2]).max() <= 1  # a smaller batch may round elsewhere


def test_clip_clamps_f_at_every_evaluation(succeed: Callable[[str], str], tmp_path: Path) -> None:
    found = {}
    for options in ("--nfe 1", "--nfe 1 --clip", "--nfe 3", "--nfe 3 --clip", "--nfe 3 --no-clip"):
        succeed(f"sample color -n 4 {options} -o x.npz --overwrite")
        found[options] = np.load(tmp_path / "x.npz")["arr_0"].tobytes()
    assert found["--nfe 1"] == found["--nfe 1 --clip"]  # the picture is clamped in any case
    assert found["--nfe 3"] == found["--nfe 3 --no-clip"] != found["--nfe 3 --clip"]


def test_nothing_is_overwritten_unless_asked_for(
    succeed: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for out, says in (("g.png", "is there already"), ("x.npz", "is there already"), ("f", "holds samples already")):
        succeed(f"sample run -n 2 -o {out}")
        before = (tmp_path / out).stat().st_mtime_ns
        message = call(capfd, f"sample run -n 3 -o {out}").mistake()
        assert message.startswith(f"--out {out}: {says}; name another")
        assert message.endswith("--overwrite it" if out != "f" else "--overwrite them")
        assert (tmp_path / out).stat().st_mtime_ns == before
        succeed(f"sample run -n 3 -o {out} --overwrite")
    assert len(list((tmp_path / "f").glob("*.png"))) == 3


def test_the_time_that_it_says_is_what_the_user_waited(models: Path, tmp_path: Path) -> None:
    """Nearly all of which goes to imports, here."""
    line = [sys.executable, "-m", "act_ray.sample", str(models / "color"), "-n", "1", "--cpu", "-o", "x.png"]
    started = time.monotonic()
    said = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    waited, told = time.monotonic() - started, re.search(r", ([\d.]+) s: x\.png$", said.strip())
    assert told is not None
    assert 0.6 * waited < float(told[1]) <= waited


@pytest.mark.parametrize("verb", ["sample", "edit", "export", "figures"])
def test_help_is_there_before_torch(verb: str) -> None:
    line = [sys.executable, "-X", "importtime", "-m", f"act_ray.{verb}", "--help"]
    ended = subprocess.run(line, check=True, capture_output=True, text=True)
    assert ended.stdout.startswith("Usage: ")
    imported = {row.rpartition("|")[2].strip() for row in ended.stderr.splitlines()}
    assert "act_ray.cli" in imported
    assert not imported & {"torch", "numpy", "ray", "diffusers", "matplotlib", "pydantic"}
    assert "OpenAI's" in ended.stdout or verb == "figures"


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sample nowhere", "nowhere: no such file or folder"),
        ("sample run --nfe 3 --levels 0.5", "--levels 0.5: makes 2 evaluations, not --nfe 3; leave one out"),
        ("sample run --levels 0.5,5", "--levels 0.5,5: must descend, from below T = 80 to no less than eps = 0.002"),
        ("sample run --levels 80", "--levels 80: must descend"),
        ("sample run --levels a", "--levels a: must be numbers with commas between, as 5,0.3"),
        ("sample run --label 10", "--label 10: run, step 2 has the classes 0 to 9"),
        ("sample color --label 1", "--label 1: color knows no classes"),
        (
            "sample diffusion --nfe 1",
            "--nfe 1: diffusion, step 2 is a denoiser, whose ODE takes 3 evaluations",
        ),
        ("sample run -o a.jpg", "--out a.jpg: must end in .png or .npz, or name a folder"),
        ("sample run -o folder.npz", "--out folder.npz: is a folder; name a file"),
        ("sample run -o f -o f/x.npz", "--out f/x.npz: lies in f, which is to hold samples alone"),
        ("sample run -o x.npz -o ./x.npz", "--out x.npz: is named twice"),
        ("sample run -o full --overwrite", "full: holds other files (mine.txt); name a new folder or an empty one"),
        ("sample run -o mine.txt", "--out mine.txt: is a file; name a new folder"),
        ("sample run -o a.png", "--out a.png: is there already; name another file, or --overwrite it"),
        ("sample run -o mine.txt/x.png", "cannot be written"),
        ("sample run --kind denoiser", "--kind denoiser: only for OpenAI's .pt; run says it itself; leave it out"),
        ("sample run -n 0", "0 is not in the range x>=1"),
        ("sample broken -n 2 --batch 2 -o new", "broken: its images are not finite; the model is broken"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, says: str, succeed: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("folder.npz", "full"):
        (tmp_path / name).mkdir()
    for name in ("mine.txt", "full/mine.txt"):
        (tmp_path / name).write_text("mine")
    picture(tmp_path / "a.png", colors(12))
    before = sorted(tmp_path.rglob("*"))
    assert says in call(capfd, line).mistake()
    assert sorted(tmp_path.rglob("*")) == before
