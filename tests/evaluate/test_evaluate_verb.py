"""`python -m act_ray.evaluate`: the same numbers on any workers, those of training, and rows that say where from."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from PIL import Image
from ray.util.state import list_actors
from torch import Tensor

from act_ray import settings
from act_ray.evaluate import measurer
from act_ray.evaluate.__main__ import evaluate, load
from act_ray.evaluate.measurer import Setup, measuring
from act_ray.metrics.features import load_network
from act_ray.metrics.moments import combine, cut_into_chunks
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.train.loop import train_here
from tests.helpers.command import Ended
from tests.helpers.tiny_runs import rows
from tests.helpers.tiny_settings import DIFFUSION, ON_RAY

SAMPLES = ["--samples", "64"]


ALIVE = [("state", "=", "ALIVE")]


@pytest.fixture(scope="module")
def trained(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows its classes."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    train_here(settings.load("digits", {**ON_RAY, "model.num_classes": 10}), str(folder))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(trained, tmp_path / "a"))


def small_images(folder: Path, side: int) -> Path:
    """A prepared data set of 20 grey images without labels."""
    source = folder / f"png{side}"
    source.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, side, side), dtype=np.uint8)):
        Image.fromarray(pixels).save(source / f"{i}.png")
    prepare(str(source), folder / f"data{side}", PrepareOptions(), 0.0)
    return folder / f"data{side}"


# ---------------------------------------------------------------------------------------------- numbers


def test_the_distance_is_the_one_of_training(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended = Ended(capfd, "evaluate", run, "--workers", 0, "--which", "last", *SAMPLES)
    assert (ended.code, ended.err) == (0, "")
    *_, score = rows(run / "scores.jsonl")
    (row,) = rows(run / "evaluations.jsonl")
    assert row["metrics"] == {"fd": pytest.approx(score["score"], rel=1e-9)}
    assert row["step"] == score["step"] == 12
    assert "FD (classifier features, 64 samples)" in ended.out
    assert "digits, 1,797" in ended.out
    assert "FID" not in ended.out
    real = f"real images against real images: FD {row['real_distance']:.4g} (64 against the other 1,733)"
    assert real in ended.out
    assert 0 < row["real_distance"] < row["metrics"]["fd"]
    assert ended.out.splitlines()[-1] == f"1 row appended to {run}/evaluations.jsonl"


def test_the_scores_of_training_are_those_of_its_weights(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The slow average and theta^- side by side; `evaluate` measures each of them, and theta, again."""
    *_, scored = rows(run / "scores.jsonl")
    assert (scored["weights"], scored["score"]) == ("ema", scored["score_ema"])
    for weights in ("ema", "teacher", "model"):
        Ended(capfd, "evaluate", run, "--workers", 0, "--which", "last", "--weights", weights, *SAMPLES).succeeded()
    measured = {row["weights"]: row["metrics"]["fd"] for row in rows(run / "evaluations.jsonl")}
    assert len(set(measured.values())) == 3
    for weights in ("ema", "teacher"):
        assert measured[weights] == pytest.approx(scored[f"score_{weights}"], rel=1e-9)


def test_any_number_of_workers_measures_the_same(
    cluster: None, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    how = ["--samples", 90, "--batch", 20, "--nfe", "1,3", "--metrics", "fid,kid,prc"]
    for workers in (0, 2):
        ended = Ended(capfd, "evaluate", run, *how, "--workers", workers, "--out", tmp_path / f"{workers}.jsonl")
        assert (ended.code, ended.err) == (0, "")
        assert "kid: subsets of 90 instead of 1,000 images" in ended.out
    assert not (run / "evaluations.jsonl").exists()
    none, two = (rows(tmp_path / f"{workers}.jsonl") for workers in (0, 2))
    assert [row["metrics"] for row in two] == [row["metrics"] for row in none]
    assert [row["nfe"] for row in two] == [1, 3]
    assert [len(row["levels"]) for row in two] == [0, 2]
    assert set(two[0]["metrics"]) == {"fd", "kid", "kid_std", "precision", "recall", "f_score"}
    assert two[0]["metrics"] != two[1]["metrics"]


@pytest.mark.slow
def test_a_worker_that_is_lost_and_one_that_never_starts_change_nothing(cluster: None, run: Path) -> None:
    """A cluster with room for one of two workers, and kill -9 to that one."""
    comparison = load(str(run), None, ["kid"], {"samples": 100, "batch": 10}, {"which": "last"})
    generator, cfg = comparison.generator, comparison.cfg
    network = load_network(cfg.eval, comparison.real, torch.device("cpu"))
    setup = Setup(generator, network, cfg, generator.label_counts)
    chunks = cut_into_chunks(100, 10)
    with measuring(setup, 0, False) as measure:
        expected = combine(measure(chunks, [0], [0.5]), 100)

    class Elsewhere:
        """Somebody else's work, which takes a CPU."""

    elsewhere = ray.remote(num_cpus=1)(Elsewhere).remote()
    try:
        ray.get(elsewhere.__ray_ready__.remote())
        with measuring(setup, 2, False) as measure:
            parts = measure(chunks, [0], [0.5])
            first = next(parts)
            (own,) = (actor.pid for actor in list_actors(filters=[("class_name", "=", "Measurer"), *ALIVE]))
            os.kill(own, signal.SIGKILL)
            found = combine([first, *parts], 100)
    finally:
        ray.kill(elsewhere)
    assert np.array_equal(found.kept[0], expected.kept[0])
    assert np.array_equal(found.moments.outer, expected.moments.outer)


def test_labels_are_as_frequent_as_in_the_data(run: Path) -> None:
    """In the data that the model was trained on; where nobody knows it, in the data it is compared with."""
    own = load(str(run), None, ["fid"], {"samples": 64, "batch": 32}, {"which": "last"})
    threes = replace(own.generator, label_counts=[0, 0, 0, 5, 0, 0, 0, 0, 0, 0])
    unknown = replace(own.generator, label_counts=None)
    all_threes = replace(own.real, labels=np.full(len(own.real.images), 3))
    cases = ((threes, own.real), (unknown, all_threes), (own.generator, all_threes))
    comparisons = [replace(own, generator=model, real=data) for model, data in cases]
    rows = [next(evaluate(comparison, [(1, [])], 0, False)) for comparison in comparisons]
    first, second, third = (row["metrics"]["fd"] for row in rows)
    assert first == second != third


# ---------------------------------------------------------------------------------------------- models


def test_a_diffusion_run_is_sampled_by_its_ode(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = settings.load("digits", {**ON_RAY, **DIFFUSION, "train.total_steps": 4})
    train_here(cfg, str(tmp_path / "d"))
    for option in (["--nfe", 2], ["--nfe", "1,2"], ["--levels", 1]):
        ended = Ended(capfd, "evaluate", tmp_path / "d", *option, *SAMPLES)
        assert ended.code == 2
        assert "is a denoiser, whose ODE takes 3 evaluations (eval.ode_steps = 2); leave it out" in ended.err
    assert Ended(capfd, "evaluate", tmp_path / "d", "--workers", 0, *SAMPLES).code == 0
    (row,) = rows(tmp_path / "d" / "evaluations.jsonl")
    assert (row["nfe"], row["levels"]) == (3, [])
    *_, score = rows(tmp_path / "d" / "scores.jsonl")
    assert row["metrics"]["fd"] == pytest.approx(score["score"], rel=1e-9)


def test_a_diffusers_folder_needs_data_and_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
    unet = UNet2DModel(**network, **blocks, num_class_embeds=10)
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()).save_pretrained(tmp_path / "m")
    how = ["--features", "classifier", "--workers", 0, "--levels", "0.9", *SAMPLES]
    ended = Ended(capfd, "evaluate", tmp_path / "m", *how)
    assert ended.err.startswith(f"error: --data: {tmp_path}/m does not say which images")
    ended = Ended(capfd, "evaluate", tmp_path / "m", *how, "--data", "digits")
    assert ended.err.startswith(f"error: --out: {tmp_path}/m is no run")
    ended = Ended(capfd, "evaluate", tmp_path / "m", *how, "--data", "digits", "--out", tmp_path / "out.jsonl")
    assert (ended.code, ended.err) == (0, "")
    (row,) = rows(tmp_path / "out.jsonl")
    assert {name: row[name] for name in ("step", "weights", "nfe", "levels", "samples", "batch", "features")} == {
        "step": None, "weights": None, "nfe": 2, "levels": [0.9], "samples": 64, "batch": 250, "features": "classifier",
    }  # fmt: skip
    assert row["metrics"]["fd"] > 0


def test_a_checkpoint_belongs_to_its_run(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "checkpoints")
    ended = Ended(capfd, "evaluate", "step-00000008", "--workers", 0, "--weights", "model", *SAMPLES)
    assert (ended.code, ended.err) == (0, "")
    (row,) = rows(run / "evaluations.jsonl")
    assert (row["step"], row["weights"]) == (8, "model")


def test_a_run_on_a_store_gets_its_row_and_nothing_else(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluations.jsonl").write_text('{"step": 4}\n')
    store = run.rename(tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    ended = Ended(capfd, "evaluate", store.as_uri(), "--workers", 0, *SAMPLES)
    assert (ended.code, ended.err) == (0, "")
    assert [row["step"] for row in rows(store / "evaluations.jsonl")] == [4, rows(store / "scores.jsonl")[-1]["step"]]
    del before[store / "evaluations.jsonl"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_clamped_answers_are_others_and_the_row_says_so(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for option in ([], ["--clip"]):
        assert Ended(capfd, "evaluate", run, "--workers", 0, *option, *SAMPLES).code == 0
    free, clamped = rows(run / "evaluations.jsonl")
    assert (free["clip"], clamped["clip"]) == (False, True)


def test_without_workers_ray_is_not_needed(run: Path) -> None:
    """In a process where Ray cannot be imported."""
    code = "import sys; sys.modules['ray'] = None; from act_ray.cli import main; main()"
    arguments = ["evaluate", str(run), "--workers", "0", "--metrics", "fid,kid", *SAMPLES]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 row appended" in ended.stdout


# ---------------------------------------------------------------------------------------------- ends


def test_features_that_are_not_finite_are_one_line(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = measurer.compute_outputs
    monkeypatch.setattr(measurer, "compute_outputs", lambda *args: [x * float("nan") for x in original(*args)])
    ended = Ended(capfd, "evaluate", run, "--workers", 0, *SAMPLES)
    assert ended.mistake().startswith("64 of 64 samples have features that are not finite")
    assert not (run / "evaluations.jsonl").exists()


def test_an_interrupt_keeps_what_was_measured(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = measurer.draw_batch

    def interrupted(*args: Any, levels: Sequence[float]) -> tuple[Tensor, Tensor | None]:
        if levels:
            raise KeyboardInterrupt
        return original(*args, levels=levels)

    monkeypatch.setattr(measurer, "draw_batch", interrupted)
    ended = Ended(capfd, "evaluate", run, "--workers", 0, "--nfe", "1,2", *SAMPLES)
    assert (ended.code, ended.err.strip()) == (130, "error: interrupted")
    assert [row["nfe"] for row in rows(run / "evaluations.jsonl")] == [1]
    assert "1 row appended" in ended.out


def test_a_mistake_that_only_a_worker_finds_is_one_line(
    cluster: None, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("- 8\n", "- 16\n"))
    ended = Ended(capfd, "evaluate", run, "--workers", 1, *SAMPLES)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {run}, step")
    assert "the networks' architectures differ" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--metrics", "fid,pcr"], "--metrics fid,pcr: no metric 'pcr'; did you mean 'prc'?"),
        (["--metrics", "is"], "--metrics is: the Inception score needs --features inception, not classifier; leave"),
        (["--features", "inception", "--inception-weights", "no.pth"], "no weights at"),
        (["--nfe", "0"], "--nfe 0: must be numbers from 1 on"),
        (["--nfe", "two"], "--nfe two: must be numbers from 1 on"),
        (["--levels", "0.1,0.5"], "--levels 0.1,0.5: must descend"),
        (["--levels", "90"], "--levels 90: must descend, from below T = 80"),
        (["--levels", "1,0.5", "--nfe", "2"], "--levels 1,0.5: makes 3 evaluations, not --nfe 2"),
        (["--samples", "3"], "3 is not in the range x>=16"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "data4"], "data4: has 1x4x4 images, and"),
        (["--data", "data8"], "data8 has no labels to train one on"),
        (["-o", "nowhere/file"], "--out nowhere/file: not a file in a folder that exists"),
        (["--gpu"], "--gpu: PyTorch finds no GPU on this machine"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(
    args: list[str],
    line: str,
    trained: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for side in (4, 8):
        if f"data{side}" in args:
            small_images(tmp_path, side)
    ended = Ended(capfd, "evaluate", trained, "--workers", 0, *args)
    assert ended.code == 2, ended.out
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert line in ended.err
    assert ("not the images that" in ended.out) == ("data8" in args)
    assert not (trained / "evaluations.jsonl").exists()
