"""Every shipped preset, shrunken in width and length only, trains and scores from prepared images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from act_ray import settings
from act_ray.metrics import classifier
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.runs.folder import RunFolder
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks

SHRUNKEN = {
    "train.total_steps": 3,
    "train.global_batch": 4,
    "train.log_every": 1,
    "model.norm_num_groups": 4,
    "model.attention_head_dim": 4,
    "loss.distance": "pseudo_huber",  # LPIPS and Inception need weight files
    "eval.features": "classifier",
    "eval.every": 3,
    "eval.samples": 70,
    "eval.batch": 35,
    "eval.grid": 16,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty random 32x32 images of four classes, prepared."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(80):
        (folder / "src" / str(i % 4)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "src" / str(i % 4) / f"{i}.png")
    prepare(str(folder / "src"), folder / "dst", PrepareOptions())
    return folder / "dst"


@pytest.mark.parametrize("preset", [name for name in settings.preset_names() if name != "digits"])
def test_preset_trains(preset: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 2)
    full = settings.load(preset)
    widths = [4 * (1 + (w > full.model.block_out_channels[0])) for w in full.model.block_out_channels]
    classes = {"model.num_classes": 4} if full.model.num_classes else {}
    shrunken = {**SHRUNKEN, **classes, "data.path": str(images), "model.block_out_channels": widths}
    *_, last = train(settings.load(preset, shrunken), RunFolder(str(tmp_path / "run")), Ranks())
    assert last["outcome"] == "completed"
    assert 0 < last["score"] < 1e9
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1
