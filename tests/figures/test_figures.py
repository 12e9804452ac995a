"""`python -m act_ray.figures`: what is drawn is what the run says, and a figure that it lacks is left out by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image
from torch import Tensor

from act_ray import cli, jsonfile, settings
from act_ray.collapse.detector import Detector
from act_ray.collapse.rules import CollapseConfig
from act_ray.data.shards import open_data
from act_ray.edit.request import MASK_COLOUR
from act_ray.figures import curves, model_figures
from act_ray.figures.__main__ import command
from act_ray.figures.curves import History, Mark, draw_curves, envelope, labels, read_history, running_median
from act_ray.figures.model_figures import Subject
from act_ray.figures.mosaic import Mosaic
from act_ray.figures.style import COLOURS, Missing, styled
from act_ray.files import sha256
from act_ray.generators.generator import Kind
from act_ray.generators.reading import read_generator
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.runs import checkpoint
from act_ray.runs.folder import MANIFEST, RunFolder
from tests.helpers.tiny_runs import go, tiny
from tests.helpers.tiny_settings import AUGMENTED

PICTURES = ("samples", "inpainting", "trajectory", "noise_levels")
TEXTS = {
    "training_curves": {"training steps", "measured", "running median"},
    "training_curves_compared": {"drift, step ", "classes", "drifted"},
    "samples": {"One-step samples", "Real images"},
    "inpainting": {"original", "masked", "fill 1", "fill 4"},
    "trajectory": {"80", "noise level ", "mean of these: "},
    "noise_levels": {"diversity", "1.00"},
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with all that a figure can show: augmented and class-conditional."""
    folder = tmp_path_factory.mktemp("runs") / "classes"
    go(tiny(AUGMENTED | {"model.num_classes": 10, "model.norm_num_groups": 4}), folder)
    return folder


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of a run without penalty that drifts from step 500 on, and what the detector says of it; no weights."""
    folder = tmp_path_factory.mktemp("runs") / "drifted"
    folder.mkdir()
    cfg = settings.load("digits", {"loss.gp_weight": 0})
    detector, rng = Detector(CollapseConfig(), 1200), np.random.default_rng(0)
    rows, run = [], RunFolder(str(folder))
    for step in range(1200):
        row = {"step": step, "loss_ct": 1 + 0.1 * rng.random()}
        if step % 16 == 0:
            row["gp"] = float(np.exp(0.1 * rng.normal() + max(0, step - 500) / 100))
        detector.observe(step, row["loss_ct"], row.get("gp"))
        rows.append(row)
    assert detector.record is not None
    run.write("config.yaml", settings.dump(cfg))
    run.append("metrics.jsonl", rows)
    run.json("prune.json", detector.record.to_dict())
    return folder


def ended(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """The verb's exit code, and what it said."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.run(command, [str(arg) for arg in args])
    out, err = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out + err


def texts(svg: Path) -> str:
    """All texts of an SVG file without spaces, for a formula has an element per letter."""
    root = ElementTree.parse(svg).getroot()
    return "|".join(
        "".join("".join(element.itertext()).split()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    )


# ---------------------------------------------------------------------------------------------- the verb


def test_every_figure_is_drawn_and_again_the_same_from_an_object_store(
    classes: Path, drifted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = ended(capfd, classes, "--compare", drifted, "--cpu")
    assert (code, said.count(".png and .svg"), "skipped" in said) == (0, 6, False)
    index = (classes / "figures" / "README.md").read_text()
    assert "overfits" in index  # why the other run is marked
    for name, expected in TEXTS.items():
        with Image.open(classes / "figures" / f"{name}.png") as picture:
            assert picture.width > 500
            assert np.asarray(picture.convert("L")).std() > 15
        assert f"]({name}.png)" in index
        shown = texts(classes / "figures" / f"{name}.svg")
        assert [text for text in expected if text.replace(" ", "") not in shown] == []
    assert ended(capfd, f"file://{classes}", "--compare", drifted, "--cpu", "--out", tmp_path)[0] == 0
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (classes / "figures", tmp_path))
    assert first == second


def test_a_run_without_weights_has_curves_only_and_one_without_rows_nothing(
    drifted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(capfd, drifted, "--out", tmp_path)[0] == 0
    (tmp_path / "samples.png").write_bytes(b"of an earlier call, when there were weights")
    code, said = ended(capfd, drifted, "--out", tmp_path)
    lines = said.splitlines()
    assert (code, len(lines)) == (0, 5)
    assert lines[0] == f"{tmp_path}/training_curves.png and .svg, drawn again"
    assert lines[1].startswith("skipped samples: ")
    assert all("no whole checkpoint yet" in line for line in lines[1:])
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "training_curves.png", "training_curves.svg"}
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text((drifted / "config.yaml").read_text())
    code, said = ended(capfd, bare)
    assert (code, said.count("skipped")) == (1, 5)
    assert "skipped training_curves: no metrics yet" in said


def test_what_is_not_this_runs_figures_is_left_alone(
    classes: Path, drifted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ended(capfd, drifted, "-o", out)[0] == 0
    drawn = {path: path.read_bytes() for path in out.iterdir()}
    code, said = ended(capfd, classes, "-o", out, "--cpu")
    assert (code, said) == (2, f"error: --out {out}: holds figures of another run; name another folder, or replace "
                               "figures there with --overwrite\n")  # fmt: skip
    (out / "thesis.tex").write_text("years of work")
    code, said = ended(capfd, drifted, "-o", out)
    assert (code, "holds other files (thesis.tex)" in said) == (2, True)
    (out / "README.md").write_text("my notes")
    code, said = ended(capfd, drifted, "-o", out)
    assert (code, "holds other files (README.md)" in said) == (2, True)
    code, said = ended(capfd, drifted, "-o", out, "--overwrite")
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
    code, said = ended(capfd, tmp_path, "--cpu")
    assert (code, said.count("a diffusion run has no consistency function")) == (0, 3)
    assert "denoisingloss" in texts(tmp_path / "figures" / "training_curves.svg")
    assert "Samples(3evaluations)" in texts(tmp_path / "figures" / "samples.svg")


def test_images_that_moved_are_asked_for(classes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for part in ("checkpoints", "metrics.jsonl", "scores.jsonl"):
        (moved / part).symlink_to(classes / part)
    text = (classes / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace("path: digits", "path: /elsewhere/digits"))
    code, said = ended(capfd, moved, "--cpu")
    assert (code, said.count("--data DIR says where the images are now")) == (0, 4)


def test_checkpoints_that_do_not_say_their_shape_give_curves(
    classes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As they did before there was anything but training."""
    old = tmp_path / "old"
    shutil.copytree(classes, old)
    for folder in (old / "checkpoints").glob("step-*"):
        state, manifest = (json.loads((folder / name).read_text()) for name in ("state.json", MANIFEST))
        del state["image_shape"]
        jsonfile.write(folder / "state.json", state)
        path = folder / "state.json"
        manifest["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        jsonfile.write(folder / MANIFEST, checkpoint._manifest(manifest["files"]))
    code, said = ended(capfd, old, "--cpu")
    assert (code, said.count("does not say 'image_shape'")) == (0, 4)


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
    args: list[str], expected: str, classes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {"run": str(classes), "search": str(tmp_path), "other": str(tmp_path / "9"), "flat": str(tmp_path / "8")}
    (tmp_path / "trials" / "000-abc").mkdir(parents=True)
    (tmp_path / "experiment.yaml").write_text("")
    for side in (8, 9):
        source = tmp_path / f"images{side}"
        source.mkdir()
        Image.new("L", (side, side)).save(source / "0.png")
        prepare(str(source), tmp_path / str(side), PrepareOptions())
    args = [arg.format(**places) for arg in args]
    code, said = ended(capfd, *args, *([] if "--out" in args else ["--out", str(tmp_path / "out")]))
    assert code == 2
    assert said.startswith("error: ")
    assert expected.format(**places) in said
    assert len(said.splitlines()) == 1


# ---------------------------------------------------------------------------------------------- curves


def plotted(figure: Figure, panel: int) -> list[tuple[list[float], list[float]]]:
    """Steps and values of the lines of a panel."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].lines]  # type: ignore[arg-type]


def annotations(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts if isinstance(text, Annotation)]


def test_a_collapse_is_marked_where_it_was_found(drifted: Path) -> None:
    record = json.loads((drifted / "prune.json").read_text())
    assert record["signature"] == "drift"
    assert 500 < record["step"] < 1100
    with styled():
        figure = draw_curves([read_history(str(drifted))], ["one"])
    first, last = record["window"][0][0], record["window"][-1][0]
    assert len(figure.axes) == 2  # ||grad D||^2 and L_CT: no scores, no augmentation
    for panel, axis in enumerate(figure.axes):
        assert plotted(figure, panel)[-1][0] == [record["step"]] * 2
        (shade,) = axis.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (first, last)  # type: ignore[attr-defined]
    assert annotations(figure) == [f"drift, step {record['step']:,}"]
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[1].get_yscale() == "linear"


def history(**changes: Any) -> History:
    """A run of 200 steps with w_gp = 0.5 unless told otherwise, and one evaluation that failed."""
    cfg = settings.load("digits", {"loss.gp_weight": 0.5, **{k.replace("__", "."): v for k, v in changes.items()}})
    rows: list[dict[str, Any]] = [{"step": k, "loss_ct": 1.0, "p_aug": 0.1} for k in range(200)]
    for row in rows[::16]:
        row |= {"gp": 2.0, "loss_gp": 2.0 * cfg.loss.gp_weight}
    rows[100]["loss_ct"], rows[101]["loss_ct"] = "nan", "inf"
    metric = "FD (classifier features, 500 samples)"
    scores = [
        {"step": k, "score": s, "diversity": 0.9, "metric": metric} for k, s in ((50, 9.0), (100, 1e9), (150, 7.0))
    ]
    return History("run", cfg, rows, scores, [])


def test_the_penalty_is_of_one_unit_and_what_is_not_finite_is_left_out() -> None:
    augmented = history(augment__enabled=True)
    with styled():
        alone = draw_curves([augmented], ["one"])
        both = draw_curves([augmented, history(loss__gp_weight=3.0)], ["one", "other"])
    (_, raw), _, (_, tau) = plotted(alone, 0)
    assert (set(raw), set(tau)) == ({1.0}, {0.55})  # w_gp ||grad D||^2 and its threshold
    values = [set(ys) for _, ys in plotted(both, 0)]
    assert values == [{2.0}, {2.0}, {1.1}, {2.0}, {2.0}]  # ||grad D||^2 and tau / w_gp
    assert annotations(both) == [r"$\tau/w_{gp}$ = 1.1"]
    steps, loss = plotted(alone, 1)[0]
    assert (len(steps), set(loss)) == (198, {1.0})
    assert plotted(alone, 2) == [([50, 150], [9.0, 7.0])]
    assert [axis.get_ylabel().split("\n")[0] for axis in alone.axes] == ["$L_{gp}$", "$L_{CT}$", "FD", "$p_{aug}$"]


def test_a_mode_collapse_shows_the_diversity_and_two_runs_their_own_marks() -> None:
    marked = [
        replace(history(), marks=[Mark(what, step, (step - 20, step), "")])
        for what, step in (("mode-collapse", 150), ("spike", 40))
    ]
    with styled():
        figure = draw_curves(marked, ["one", "other"])
    assert figure.axes[-1].get_ylabel().startswith("diversity")
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert {name: text.get_color() for name, text in texts.items()} == {
        "mode-collapse, step 150": COLOURS[0],
        "spike, step 40": COLOURS[1],
    }
    assert [texts[name].get_ha() for name in sorted(texts)] == ["right", "left"]  # towards the middle
    assert len({text.xyann[1] for text in texts.values()}) == 2  # type: ignore[attr-defined]
    assert not any(axis.patches for axis in figure.axes)


def test_runs_are_named_by_what_differs() -> None:
    runs = [history(loss__w=w, collapse__blocks=blocks) for w, blocks in ((0.8, 50), (0.9, 60))]
    assert labels(runs, ["a/run", "b/run/"]) == ["a/run: loss.w = 0.8", "b/run: loss.w = 0.9"]
    assert labels(runs[:1], ["a/run"]) == ["run"]


def test_a_long_curve_keeps_its_extremes_and_a_short_one_its_points() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321], values[12_345] = 50.0, -50.0
    (steps, raw), (middle, medians) = envelope(np.arange(100_000.0), values)
    assert len(raw) == 2 * len(medians) == 2 * curves.MOST
    for value, step in ((50.0, 54_321), (-50.0, 12_345)):
        (where,) = np.flatnonzero(raw == value)
        assert abs(steps[where] - step) < 100_000 / curves.MOST
    assert np.abs(medians).max() < 1
    assert (np.diff(middle) > 0).all()
    assert [list(line) for line in envelope(np.arange(3.0), np.ones(3))[1]] == [[0, 1, 2], [1, 1, 1]]
    assert running_median(np.array([1.0, 9.0, 2.0, 3.0, 8.0]), 3).tolist() == [5.0, 2.0, 3.0, 3.0, 5.5]


# ---------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def subject(classes: Path) -> Subject:
    source = read_generator(str(classes))
    return Subject(source, source.build(torch.device("cpu")), open_data("digits"), torch.device("cpu"))


def test_a_trajectory_is_one_image_with_more_and_more_of_one_noise(subject: Subject) -> None:
    x, told = subject.real(5)
    assert told is not None
    assert told.tolist() == [
        int(subject.data.labels[i])  # type: ignore[index]
        for i in (np.flatnonzero((subject.data.images == np.asarray((image + 1) * 127.5).round()).all((1, 2, 3)))[0]
                  for image in x)
    ]  # fmt: skip
    eps = subject.generator.cfg.schedule.t_min
    (x0, f0), (x1, _), (x2, _) = subject.along(torch.tensor([eps, 1.0, 3.0]), 5)
    assert torch.equal(f0, x0)
    torch.testing.assert_close(x2 - x, 3 * (x1 - x))
    assert 0.8 < float((x1 - x).std()) < 1.2
    assert subject.levels(10).tolist() == pytest.approx(
        [0.0174, 0.0846, 0.315, 0.968, 2.56, 5.99, 12.7, 24.9, 45.7, 80], rel=0.1
    )


class Collapsed(torch.nn.Module):
    """A generator that has lost all modes but one."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def test_a_collapsed_model_has_no_diversity_and_no_distances(subject: Subject) -> None:
    collapsed = replace(subject, model=Collapsed())
    with styled():
        levels, trajectory = model_figures.draw_noise_levels(collapsed), model_figures.draw_trajectory(collapsed)
    assert annotations(levels) == ["1.00"] + ["0.00"] * 10
    ticks = [text.get_text() for text in trajectory.axes[0].get_xticklabels()]
    assert ticks == ["0.000"] * 9


def test_only_the_hole_is_painted_and_filled(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(model_figures, "Mosaic", lambda images: seen.append(images) or Mosaic(images))
    model_figures.draw_inpainting(subject)
    original, masked, *fills = seen[0].unbind(1)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[2:6, 2:6] = True
    assert (masked[..., hole] == torch.tensor(MASK_COLOUR, dtype=torch.uint8).view(3, 1)).all()
    assert len(fills) == 4
    for image in (masked, *fills):
        assert torch.equal(image[..., ~hole], original[..., ~hole])
    assert len({fill.numpy().tobytes() for fill in fills}) == 4


def test_a_mosaic_holds_every_image_at_its_place() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(4, 2, 3, 1, 1).expand(4, 2, 3, 8, 8)
    mosaic = Mosaic(images, group=2)
    for r, y in enumerate(mosaic.centres_y):
        for c, x in enumerate(mosaic.centres_x):
            assert mosaic.canvas[round(y), round(x)].tolist() == images[r, c, :, 0, 0].tolist()
    gaps = np.diff(mosaic.centres_y)
    assert gaps[0] == gaps[2] < gaps[1]
    assert (mosaic.canvas == 255).mean() < 0.25


def test_a_denoiser_is_no_subject_for_them(subject: Subject) -> None:
    denoiser = replace(subject, generator=replace(subject.generator, kind=Kind.DENOISER))
    with pytest.raises(Missing, match="no consistency function"):
        model_figures.draw_trajectory(denoiser)
