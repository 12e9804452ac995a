"""The public API: lazy, small, and it does what the commands do."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import act_ray
from act_ray import Config, Detector, UserError, evaluate_model, load_config, load_generator, sample_images, train_model
from tests.helpers.tiny_settings import TINY


def test_importing_it_is_free_and_every_name_is_there() -> None:
    code = (
        "import act_ray, sys\nheavy = {'torch', 'ray', 'numpy', 'pydantic', 'diffusers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n[getattr(act_ray, name) for name in act_ray.__all__]\n"
        "assert 'ray' not in sys.modules\nassert set(act_ray.__all__) <= set(dir(act_ray))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = act_ray.nothing


def test_train_load_sample_evaluate(tmp_path: Path) -> None:
    config = load_config("digits", {**TINY, "train.total_steps": 4, "eval.every": 4})
    assert isinstance(config, Config)
    report = train_model(config, str(tmp_path / "run"))
    assert (report["outcome"], report["step"]) == ("completed", 4)
    generator = load_generator(str(tmp_path / "run"))
    images = sample_images(generator, 3)
    assert (images.shape, images.dtype) == ((3, 1, 8, 8), np.uint8)
    assert np.abs(images.astype(int) - sample_images(generator, 5)[:3]).max() <= 1
    assert not np.array_equal(images, sample_images(generator, 3, seed=1))
    (row,) = evaluate_model(str(tmp_path / "run"), samples=16)
    assert row["metrics"]["fd"] == pytest.approx(report["score"], rel=1e-8)  # its moments are merged
    with pytest.raises(UserError, match=r"loss.w = 2"):
        load_config("digits", {"loss.w": 2})


def test_the_detector_stands_alone() -> None:
    detector = Detector(Config().collapse, total_steps=100)
    record = detector.observe(3, float("nan"), None)
    assert record is not None
    assert record.signature == "divergence"


def test_a_folder_of_another_run_is_refused_and_a_diffusion_run_evaluates(tmp_path: Path) -> None:
    small = {**TINY, "train.total_steps": 2, "eval.every": 2, "train.method": "diffusion", "eval.ode_steps": 2}
    config, folder = load_config("digits", small), str(tmp_path / "run")
    train_model(config, folder)
    assert train_model(config, folder)["outcome"] == "completed"
    with pytest.raises(UserError, match="holds a run of other settings"):
        train_model(load_config("digits", {**small, "train.total_steps": 4}), folder)
    (row,) = evaluate_model(folder, samples=16)
    assert (row["nfe"], row["levels"]) == (3, [])


def test_the_network_of_model_init_is_the_models(tmp_path: Path) -> None:
    small = {**TINY, "train.total_steps": 2, "eval.every": 2}
    train_model(load_config("digits", small), str(tmp_path / "run"))
    adopted = load_config("digits", {"model.init": str(tmp_path / "run")})
    assert adopted.model.block_out_channels == (8,)
