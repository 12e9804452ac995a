"""Exports: what diffusers and ONNX Runtime make of them without act_ray, the model card, and folders in the way."""

import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from act_ray import cli, settings
from act_ray.core.consistency import multistep, multistep_levels, one_step
from act_ray.errors import UserError
from act_ray.export.__main__ import command
from act_ray.export.folder import write_export
from act_ray.generators.class_names import parse_label
from act_ray.generators.generator import Generator, Kind
from act_ray.generators.reading import read_generator
from act_ray.models.unet import UNet
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.yamlfile import read_yaml
from tests.helpers.tiny_settings import PAIRED

CLASSES: dict[str, Any] = {"model.num_classes": 3}
N = 4  # samples


def untrained(channels: int = 1, more: dict[str, Any] | None = None, **known: Any) -> Generator:
    """A generator with random weights, said to be of step 7 of a run."""
    cfg = settings.load("digits", {**PAIRED, **(more or {})})
    torch.manual_seed(0)
    tensors = UNet(cfg, channels, 8).unet.state_dict()
    tensors["conv_out.weight"] *= 5  # beyond [-1, 1] here and there
    known = {"origin": "runs/a, step 7", "kind": Kind.CONSISTENCY, "step": 7, "name": "a", **known}
    return Generator(cfg, (channels, 8, 8), tensors, **known)


def our_samples(source: Generator, labels: Tensor | None, steps: int = 1) -> Tensor:
    """Images from the noise of the generator with seed 5, which diffusers draws step by step."""
    generator = torch.Generator().manual_seed(5)
    z = [torch.randn(N, *source.shape, generator=generator) for _ in range(steps)]
    schedule = source.cfg.schedule
    f = source.build(torch.device("cpu"))
    return multistep(f, z, multistep_levels(steps, schedule), schedule, labels).clamp(-1, 1)


# ---------------------------------------------------------------------------------------------- diffusers

ALONE = """
import pathlib, re, sys, torch
from diffusers import ConsistencyModelPipeline
from safetensors.torch import save_file

out = {}
for name in sys.argv[1:]:
    pipe = ConsistencyModelPipeline.from_pretrained(name, low_cpu_mem_usage=False)
    classes = pipe.unet.config.num_class_embeds
    labels = None if classes is None else torch.arange(4) % classes
    for steps in (1, 4):
        generator = torch.Generator().manual_seed(5)
        out[f"{name}/{steps}"] = pipe(4, labels, steps, generator=generator, output_type="pt").images * 2 - 1
    if pipe.unet.config.in_channels == 3:
        z = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))
        out[f"{name}/latents"] = pipe(4, labels, latents=z, output_type="pt").images * 2 - 1
    exec(re.search("```python\\n(.*?)```", pathlib.Path(name, "README.md").read_text(), re.DOTALL)[1])
    pathlib.Path("sample.png").rename(f"{name}.png")
    assert len(images) == 4
save_file(out, "out.safetensors")
assert not [module for module in sys.modules if module.split(".")[0] == "act_ray"]
"""


def test_diffusers_alone_makes_our_samples(tmp_path: Path) -> None:
    """In a process of its own, which also runs the card's example; t_min = 0.009 is one where its scheduler has NaN."""
    schedule = {"schedule.t_min": 0.009, "schedule.t_max": 50, "schedule.sigma_data": 0.7, "schedule.rho": 5}
    sources = {
        "grey": untrained(),
        "grey_classes": untrained(1, CLASSES),
        "clamped": untrained(3, clip=True),
        "colour_classes": untrained(3, {**CLASSES, **schedule, "train.precision": "bf16"}),
    }
    for name, source in sources.items():
        assert write_export(source, str(tmp_path / name), "diffusers", "unknown", overwrite=False) < 1e-5
    subprocess.run([sys.executable, "-c", ALONE, *sources], cwd=tmp_path, check=True, capture_output=True)
    out = load_file(tmp_path / "out.safetensors")
    for name, source in sources.items():
        source = read_generator(str(tmp_path / name))  # float32
        labels = torch.arange(N) % 3 if source.cfg.model.num_classes else None
        for steps in (1, 4):
            theirs, ours = out[f"{name}/{steps}"], our_samples(source, labels, steps)
            assert ours.std() > 0.1
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 if steps == 1 else 1e-4)
        if name == "clamped":
            unclamped = our_samples(replace(source, clip=False), labels, 4)
            assert (unclamped - our_samples(source, labels, 4)).abs().max() > 0.1
        if source.shape[0] == 3:
            torch.testing.assert_close(out[f"{name}/latents"], out[f"{name}/1"], rtol=0, atol=0)
        if labels is not None:
            assert (our_samples(source, labels) - our_samples(source, labels.flip(0))).abs().max() > 1e-3
        assert source.clip is (name == "clamped")
        assert (tmp_path / f"{name}.png").exists()


def test_an_export_read_again_is_the_same_generator(tmp_path: Path) -> None:
    source = untrained(3, {**CLASSES, "schedule.sigma_data": 0.7, "schedule.t_max": 50})
    write_export(source, str(tmp_path / "e"), "diffusers", "unknown", overwrite=False)
    again, labels = read_generator(str(tmp_path / "e")), torch.arange(N) % 3
    assert again.shape == (3, 8, 8)
    assert again.cfg.schedule.model_dump(include={"t_min", "t_max", "rho", "sigma_data", "time_input"}) == {
        "t_min": 0.002,
        "t_max": 50,
        "rho": 7,
        "sigma_data": 0.7,
        "time_input": "log",
    }
    assert torch.equal(our_samples(again, labels), our_samples(source, labels))


# ---------------------------------------------------------------------------------------------- ONNX


def in_child(function: Callable[[], None]) -> int:
    """Run in a forked child; 0 if it returned. torch.export leaves threads that later tests could not fork with."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.mark.slow
def test_onnx_runtime_makes_our_samples_of_any_batch_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Of a model that the pipeline cannot express, as it is told t itself."""
    source = untrained(1, {**CLASSES, "schedule.time_input": "linear", "data.path": "/srv/secret/set"})

    def quietly() -> None:
        assert write_export(source, str(tmp_path / "e"), "onnx", "unknown", overwrite=False) < 1e-5
        assert [str(warning.message) for warning in recwarn] == []

    status = in_child(quietly)
    assert (*capfd.readouterr(), status) == ("", "", 0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "config.yaml", "e", "model.onnx"]

    graph = tmp_path / "e" / "model.onnx"
    for path in ("/srv/secret", str(tmp_path), "site-packages", "act_ray/"):
        assert path.encode() not in graph.read_bytes()
    session = onnxruntime.InferenceSession(graph)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("z", ["N", 1, 8, 8]), ("labels", ["N"])]
    f = source.build(torch.device("cpu"))
    for n in (1, 2, 70):  # diffusers' upsampling looks whether the batch is larger than 64
        z, labels = torch.randn(n, 1, 8, 8), torch.arange(n) % 3
        images = torch.from_numpy(session.run(["images"], {"z": z.numpy(), "labels": labels.numpy()})[0])
        ours = one_step(f, z, source.cfg.schedule, labels).clamp(-1, 1)
        torch.testing.assert_close(images, ours, rtol=0, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert about["data"] == ".../set"
    assert settings.build(read_yaml(about["config"], "metadata")).schedule == source.cfg.schedule


NO_ONNX = "--format onnx: needs onnxruntime: pip install 'act-ray[onnx]'"


def test_missing_onnx_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=f"^{re.escape(NO_ONNX)}$"):
        write_export(untrained(), str(tmp_path / "e"), "onnx", "unknown", overwrite=False)


# ---------------------------------------------------------------------------------------------- model card


def test_the_card_says_what_was_measured_and_nothing_of_this_machine(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "step": 7,
            "score": 12.345,
            "diversity": 0.91,
            "metric": "FD (classifier features, 500 samples)",
            "loss_ct_low": 0.125,
            "d_fake": -0.75,
        },
        {
            "model": "/srv/secret/runs/a, step 7",
            "step": 7,
            "weights": "ema",
            "nfe": 2,
            "levels": [2.5],
            "samples": 50_000,
            "batch": 100,
            "features": "inception",
            "data": "/srv/secret/digits",
            "images": 1797,
            "metrics": {"fid": 3.25, "recall": 0.5},
            "seconds": 3.5,
        },
    ]
    paths = {
        "data.path": "/srv/secret/digits",
        "distill.teacher": "s3://secret/runs/teacher",
        "model.init": "/srv/secret/start/",
        "eval.inception_weights": "/srv/secret/inception.pth",
        "train.seed": 31,
    }
    source = untrained(1, paths, measured=rows, data_checksum="c0ffee", origin="/srv/secret/runs/a, step 7")
    write_export(source, str(tmp_path / "e"), "diffusers", "apache-2.0", overwrite=False)
    card, text = ((tmp_path / "e" / name).read_text() for name in ("README.md", "config.yaml"))
    front = read_yaml(card.split("---\n")[1], "front matter")
    assert (front["library_name"], front["license"]) == ("diffusers", "apache-2.0")
    assert "| score | 12.345 | FD (classifier features, 500 samples) |\n" in card
    how = "inception features, 50,000 samples, NFE 2, against 1,797 images"
    assert f"| fid | 3.25 | {how} |\n| recall | 0.5 | {how} |\n" in card
    measured = card.split("## Measured")[1].split("## Training")[0]
    assert not [other for other in ("3.5", "loss_ct_low", "d_fake") if other in measured]
    for line in ("adversarial consistency distillation (ACT", "- seed: 31\n", "- data checksum: c0ffee\n"):
        assert line in card
    assert text in card
    everything = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "secret" not in everything
    assert str(tmp_path) not in everything
    told = settings.build(read_yaml(text, "config.yaml"))
    assert (told.data.path, told.distill.teacher, told.model.init) == (".../digits", ".../teacher", ".../start")
    assert (told.train, told.loss) == (source.cfg.train, source.cfg.loss)


def test_the_names_of_the_classes_outlive_the_data(tmp_path: Path) -> None:
    data, model = tmp_path / "data", tmp_path / "model"
    for name in ("plain", "striped"):
        (tmp_path / "src" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "src" / name / "0.png")
    checksum = prepare(str(tmp_path / "src"), data, PrepareOptions(), 0)["checksum"]
    source = untrained(1, {"model.num_classes": 2, "data.path": str(data)}, data_checksum=checksum)
    assert [parse_label(source, text) for text in (None, "1", "striped")] == [None, 1, 1]
    with pytest.raises(UserError, match="has the classes 0 to 1; did you mean 'plain'"):
        parse_label(source, "plane")
    write_export(source, str(model), "diffusers", "unknown", overwrite=False)
    assert "Classes (`class_names.json`): 0 plain, 1 striped." in (model / "README.md").read_text()
    assert parse_label(read_generator(str(model)), "striped") == 1
    shutil.rmtree(data)
    assert parse_label(source, "1") == 1
    with pytest.raises(UserError, match=f"0 to 1; their names are not \\(or no longer\\) in {data}"):
        parse_label(source, "striped")


# ---------------------------------------------------------------------------------------------- the verb


def test_the_verb_replaces_an_export_and_refuses_what_is_in_the_way(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dst = str(tmp_path / "model"), tmp_path / "dst"
    write_export(untrained(), model, "diffusers", "unknown", overwrite=False)

    def verb(*args: str) -> tuple[Any, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(command, [model, *args])
        out, err = capfd.readouterr()
        assert (len(out.splitlines()), len(err.splitlines())) == ((1, 0) if ended.value.code == 0 else (0, 1))
        return ended.value.code, out + err

    code, line = verb(str(dst))
    assert code == 0
    assert line.startswith(f"{model}: diffusers, 0.")
    assert verb(str(dst)) == (2, f"error: {dst}: is not empty; --overwrite replaces an earlier export\n")
    (dst / "model.onnx").write_text("of an earlier export")
    assert verb(str(dst), "--overwrite", "--license", "mit")[0] == 0
    assert not (dst / "model.onnx").exists()
    assert "license: mit\n" in (dst / "README.md").read_text()
    assert "converted from model" in (dst / "README.md").read_text()
    (dst / "thesis.tex").write_text("years of work")
    message = f"error: {dst}: holds thesis.tex; --overwrite replaces only what an export wrote\n"
    assert verb(str(dst), "--overwrite") == (2, message)
    assert (
        verb(f"{dst}/thesis.tex")[1]
        == f"error: {dst}/thesis.tex: must be a folder, new or empty; files are written into it\n"
    )
    assert "cannot be written" in verb(f"{dst}/thesis.tex/below")[1]
    assert verb("s3://bucket/e")[1] == "error: s3://bucket/e: must be a folder of this machine\n"
    onnx = verb("m.onnx", "--format", "onnx")
    assert onnx == (2, "error: m.onnx: must be a folder, new or empty; files are written into it\n")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert verb("e", "--format", "onnx") == (2, f"error: {NO_ONNX}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "model"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"schedule.time_input": "linear"}, "schedule.time_input = linear, .* use --format onnx"),
        ({"kind": Kind.DENOISER}, "a denoiser"),
        ({"kind": Kind.OTHER, "unusable": "counts steps"}, "runs/a, step 7: counts steps; such a network cannot be"),
    ],
)
def test_what_the_pipeline_cannot_express_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    cfg = {key: value for key, value in more.items() if "." in key}
    known = {key: value for key, value in more.items() if "." not in key}
    with pytest.raises(UserError, match=message):
        write_export(untrained(1, cfg, **known), str(tmp_path / "e"), "diffusers", "unknown", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    """Weights that are not finite make samples that are not ours, whatever they are."""
    write_export(untrained(), str(tmp_path / "e"), "diffusers", "unknown", overwrite=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    broken = untrained()
    broken.tensors["conv_out.bias"].fill_(float("nan"))
    with pytest.raises(UserError, match="differ from act_ray's by nan; nothing written"):
        write_export(broken, str(tmp_path / "e"), "diffusers", "unknown", overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
