"""`python -m act_ray.figures`: what is drawn is what the run says, and a figure that it lacks is left out by name."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from act_ray import jsonfile
from act_ray.figures.curves import Mark, read_history
from act_ray.files import sha256
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.runs import checkpoint
from act_ray.runs.folder import MANIFEST
from tests.helpers.command import Ended
from tests.helpers.tiny_runs import go, tiny

TEXTS = {
    "training_curves": {"training steps", "measured", "running median"},
    "training_curves_compared": {"drift, step ", "classes", "drifted"},
    "samples": {"One-step samples", "Real images"},
    "inpainting": {"original", "masked", "fill 1", "fill 4"},
    "trajectory": {"80", "noise level ", "mean of these: "},
    "noise_levels": {"diversity", "1.00"},
}


def told(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """The verb's exit code, and what it said."""
    ended = Ended(capfd, "figures", *args)
    return ended.code, ended.out + ended.err


def texts(svg: Path) -> str:
    """All texts of an SVG file without spaces, for a formula has an element per letter."""
    root = ElementTree.parse(svg).getroot()
    return "|".join(
        "".join("".join(element.itertext()).split()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    )


# ---------------------------------------------------------------------------------------------- the verb


def test_every_figure_is_drawn_and_again_the_same_from_an_object_store(
    drawable: Path, drifted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = told(capfd, drawable, "--compare", drifted, "--cpu")
    assert (code, said.count(".png and .svg"), "skipped" in said) == (0, 6, False)
    index = (drawable / "figures" / "README.md").read_text()
    assert "overfits" in index  # why the other run is marked
    for name, expected in TEXTS.items():
        with Image.open(drawable / "figures" / f"{name}.png") as picture:
            assert picture.width > 500
            assert np.asarray(picture.convert("L")).std() > 15
        assert f"]({name}.png)" in index
        shown = texts(drawable / "figures" / f"{name}.svg")
        assert [text for text in expected if text.replace(" ", "") not in shown] == []
    assert told(capfd, f"file://{drawable}", "--compare", drifted, "--cpu", "--out", tmp_path)[0] == 0
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (drawable / "figures", tmp_path))
    assert first == second


def test_a_run_without_weights_has_curves_only_and_one_without_rows_nothing(
    drifted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert told(capfd, drifted, "--out", tmp_path)[0] == 0
    (tmp_path / "samples.png").write_bytes(b"of an earlier call, when there were weights")
    code, said = told(capfd, drifted, "--out", tmp_path)
    lines = said.splitlines()
    assert (code, len(lines)) == (0, 5)
    assert lines[0] == f"{tmp_path}/training_curves.png and .svg, drawn again"
    assert lines[1].startswith("skipped samples: ")
    assert all("no whole checkpoint yet" in line for line in lines[1:])
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "training_curves.png", "training_curves.svg"}
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text((drifted / "config.yaml").read_text())
    code, said = told(capfd, bare)
    assert (code, said.count("skipped")) == (1, 5)
    assert "skipped training_curves: no metrics yet" in said


def test_what_is_not_this_runs_figures_is_left_alone(
    drawable: Path, drifted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert told(capfd, drifted, "-o", out)[0] == 0
    drawn = {path: path.read_bytes() for path in out.iterdir()}
    code, said = told(capfd, drawable, "-o", out, "--cpu")
    assert (code, said) == (2, f"error: --out {out}: holds figures of another run; name another folder, or replace "
                               "figures there with --overwrite\n")  # fmt: skip
    (out / "thesis.tex").write_text("years of work")
    code, said = told(capfd, drifted, "-o", out)
    assert (code, "holds other files (thesis.tex)" in said) == (2, True)
    (out / "README.md").write_text("my notes")
    code, said = told(capfd, drifted, "-o", out)
    assert (code, "holds other files (README.md)" in said) == (2, True)
    code, said = told(capfd, drifted, "-o", out, "--overwrite")
    assert (code, "drawn again" in said) == (0, False)
    assert {path: path.read_bytes() for path in drawn} == drawn
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_value_that_is_not_finite_is_marked_once(drifted: Path, tmp_path: Path) -> None:
    """As runs write it now, in prune.json alone; and as they did, in evidence.json as well."""
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_text((drifted / name).read_text())
    found = {"signature": "divergence", "step": 700, "value": "NaN", "window": [[700, "NaN"]], "message": "L_CT is nan"}
    jsonfile.write(tmp_path / "prune.json", {**found, "evidence": {"last_rows": [{"step": 700, "loss_ct": "NaN"}]}})
    assert read_history(str(tmp_path)).marks == [Mark("divergence", 700, (700, 700), "L_CT is nan")]
    jsonfile.write(tmp_path / "evidence.json", {"step": 700, "what": "L_CT is nan"})
    assert len(read_history(str(tmp_path)).marks) == 1
    jsonfile.write(tmp_path / "prune.json", json.loads((drifted / "prune.json").read_text()))
    assert [mark.signature for mark in read_history(str(tmp_path)).marks] == ["drift", "not finite"]


def test_a_diffusion_run_has_curves_and_samples(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go(tiny({"train.method": "diffusion", "eval.ode_steps": 2, "train.total_steps": 5}), tmp_path)
    code, said = told(capfd, tmp_path, "--cpu")
    assert (code, said.count("a diffusion run has no consistency function")) == (0, 3)
    assert "denoisingloss" in texts(tmp_path / "figures" / "training_curves.svg")
    assert "Samples(3evaluations)" in texts(tmp_path / "figures" / "samples.svg")


def test_images_that_moved_are_asked_for(drawable: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for part in ("checkpoints", "metrics.jsonl", "scores.jsonl"):
        (moved / part).symlink_to(drawable / part)
    text = (drawable / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace("path: digits", "path: /elsewhere/digits"))
    code, said = told(capfd, moved, "--cpu")
    assert (code, said.count("--data DIR says where the images are now")) == (0, 4)


def test_checkpoints_that_do_not_say_their_shape_give_curves(
    drawable: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As they did before there was anything but training."""
    old = tmp_path / "old"
    shutil.copytree(drawable, old)
    for folder in (old / "checkpoints").glob("step-*"):
        state, manifest = (json.loads((folder / name).read_text()) for name in ("state.json", MANIFEST))
        del state["image_shape"]
        jsonfile.write(folder / "state.json", state)
        path = folder / "state.json"
        manifest["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        jsonfile.write(folder / MANIFEST, checkpoint._manifest(manifest["files"]))
    code, said = told(capfd, old, "--cpu")
    assert (code, said.count("state.json: image_shape: Field required")) == (0, 4)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["{run}/checkpoints"], "no config.yaml there; not a run's folder"),
        (["{search}"], "a search: give one of its trials' folders, e.g. {search}/trials/000-abc"),
        (["{run}", *["--compare", "{run}"] * 7], "--compare: at most 6 runs, not 7"),
        (["{run}", "--compare", "{run}/nothing"], "{run}/nothing: no config.yaml there"),
        (["{run}", "--data", "{run}/nothing"], "{run}/nothing: no such folder"),
        (["{run}", "--data", "{other}"], "images [C, H, W] = [1, 9, 9]"),
        (["{run}", "--data", "{flat}"], "has 0 classes; {run}, step "),
        (["{run}", "--out", "{run}/config.yaml"], "--out {run}/config.yaml: cannot be made: File exists"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], expected: str, drawable: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {
        "run": str(drawable),
        "search": str(tmp_path),
        "other": str(tmp_path / "9"),
        "flat": str(tmp_path / "8"),
    }
    (tmp_path / "trials" / "000-abc").mkdir(parents=True)
    (tmp_path / "experiment.yaml").write_text("")
    for side in (8, 9):
        source = tmp_path / f"images{side}"
        source.mkdir()
        Image.new("L", (side, side)).save(source / "0.png")
        prepare(str(source), tmp_path / str(side), PrepareOptions())
    args = [arg.format(**places) for arg in args]
    code, said = told(capfd, *args, *([] if "--out" in args else ["--out", str(tmp_path / "out")]))
    assert code == 2
    assert said.startswith("error: ")
    assert expected.format(**places) in said
    assert len(said.splitlines()) == 1
