"""Generators of runs: which checkpoint, damaged ones, and runs on an object store."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from act_ray.core.step import unwrap
from act_ray.errors import UserError
from act_ray.generators.reading import read_generator
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun
from tests.helpers.tiny_runs import same, saved, tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoints of steps 2, 4 (the best) and 6, whose weights all differ."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    job = TrainingRun(tiny(), RunFolder(str(folder)), Ranks())
    for step in (2, 4, 6):
        job.state.step, job.last_score, job.best = step, 10.0 * step, (5.0, min(step, 4))
        for add, name in enumerate(("model", "teacher", "ema")):
            unwrap(getattr(job.state, name)).network.unet.conv_in.bias.data += 1 + add
        checkpoint.save(job.folder.checkpoints, checkpoint.Snapshot.take(job.state, extra(job)))
    job.folder.append(
        "scores.jsonl",
        [
            {
                "step": n,
                "score": 10.0 * n,
                "score_ema": 10.0 * n,
                "score_teacher": 10.0 * n + 1,
                "diversity": 1.0,
                "weights": "ema",
                "metric": "FD",
            }
            for n in (4, 6)
        ],
    )
    job.folder.append(
        "evaluations.jsonl", [{"step": 6, "weights": w, "metrics": {"fd": 1.0}} for w in ("ema", "model")]
    )
    job.folder.close()
    return folder


def extra(job: TrainingRun) -> dict[str, Any]:
    known = {"detector": {}, "score": job.last_score, "diversity": 1.0, "best": job.best, "seconds": 1.0}
    return known | {"data_checksum": job.data.checksum, "image_shape": [1, 8, 8], "label_counts": [1, 2]}


def at(run: Path, step: int) -> Path:
    return checkpoint.step_folder(run / "checkpoints", step)


def damage(run: Path, step: int) -> None:
    (at(run, step) / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize(("which", "step"), [("best", 4), ("last", 6)])
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("weights", [None, "ema", "teacher", "model"])
def test_the_best_and_the_last_checkpoint_of_a_run(
    run: Path, which: Any, step: int, remote: bool, weights: Any
) -> None:
    source = read_generator((run.as_uri() if remote else str(run)) + "/", which=which, weights=weights)
    score = {"teacher": 10.0 * step + 1, "model": None}.get(weights, 10.0 * step)
    assert (source.step, source.score, source.shape, source.name) == (step, score, (1, 8, 8), "a")
    weights = weights or "ema"  # the first of eval.weights
    assert source.weights == weights
    assert source.label_counts == [1, 2]
    assert source.cfg == tiny()
    assert same(source.tensors, saved(at(run, step), weights))
    assert [sorted(row) for row in source.measured] == {
        (4, "ema"): [["diversity", "metric", "score", "step", "weights"]],
        (4, "teacher"): [["metric", "score", "step", "weights"]],
        (4, "model"): [],
        (6, "ema"): [["diversity", "metric", "score", "step", "weights"], ["metrics", "step", "weights"]],
        (6, "teacher"): [["metric", "score", "step", "weights"]],
        (6, "model"): [["metrics", "step", "weights"]],
    }[step, weights]
    f = source.build(CPU)
    assert same(f.network.unet.state_dict(), source.tensors)
    assert not f.training
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.002, 80.0])
    assert torch.equal(f(x, t)[0], x[0])  # f(x, eps) = x
    with pytest.raises(
        UserError, match=r", step \d: a denoiser \(train.method = diffusion\) is needed .* consistency$"
    ):
        source.build(CPU, denoiser=True)


def test_a_checkpoint_s_folder_is_read_in_its_run(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(run / "checkpoints")
    assert read_generator("step-00000002").step == 2
    shutil.copytree(at(run, 2), tmp_path / "x" / "y")
    with pytest.raises(UserError, match=f"a checkpoint outside of its run: no config.yaml in {tmp_path}"):
        read_generator(str(tmp_path / "x" / "y"))


def test_damage_is_named_or_stepped_over(run: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(run, tmp_path / "a"))
    damage(here, 4)
    with pytest.raises(UserError, match=r"best checkpoint damaged: .*step-00000004/model.safetensors is not what was"):
        read_generator(str(here))
    with pytest.raises(UserError, match="checkpoint damaged: "):
        read_generator(str(at(here, 4)))
    damage(here, 6)
    assert read_generator(str(here), which="last").step == 2
    damage(here, 2)
    with pytest.raises(UserError, match=r"no whole checkpoint yet \(.*step-00000006"):
        read_generator(str(here), which="last")


def test_a_remote_run_is_read_as_it_is_now(run: Path, tmp_path: Path) -> None:
    """Not as it was when it was read before, and without the checkpoint that is still being pushed."""
    store = Path(shutil.copytree(run, tmp_path / "a"))
    assert read_generator(store.as_uri(), which="last").step == 6
    shutil.rmtree(at(store, 6))
    (at(store, 8)).mkdir()
    (at(store, 8) / "ema.safetensors").write_bytes(b"half")
    assert read_generator(store.as_uri(), which="last").step == 4


def test_what_is_no_model_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "experiment.yaml").write_text("preset: digits\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("preset: digits\n")
    torch.save({"a": Path("x")}, tmp_path / "pickled.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "torn.ckpt").write_bytes((tmp_path / "other.pt").read_bytes()[:-99])
    for name, message in {
        "nowhere": "no such file or folder",
        "search": "a search: give one of its trials' folders",
        "empty": "no whole checkpoint yet",
        "empty/config.yaml": "not a run's folder",
        ".": "not a run's folder",
        "pickled.pt": "holds more than tensors; where you trust it",
        "torn.ckpt": "not a file of weights",
        "other.pt": "neither the ACT authors' checkpoint nor",
    }.items():
        with pytest.raises(UserError, match=message):
            read_generator(str(tmp_path / name))
    with pytest.raises(UserError, match="not a run's folder"):
        read_generator(tmp_path.as_uri())
