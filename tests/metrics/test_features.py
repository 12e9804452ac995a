"""Inception's weights: what is said when they are missing, and that a pickle in their place never runs."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData, open_data
from act_ray.errors import UserError
from act_ray.metrics.features import load_network
from act_ray.weight_files import INCEPTION

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_data("digits")


def test_missing_inception_weights_are_named(digits: ImageData, tmp_path: Path) -> None:
    cfg = EvalConfig(features="inception", inception_weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError) as error:
        load_network(cfg, digits, CPU)
    assert str(tmp_path / "none.pth") in str(error.value)
    assert INCEPTION.file in str(error.value)
    assert "eval.features=self_supervised" in str(error.value)


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_in_place_of_the_weights_never_runs(writer: str, digits: ImageData, tmp_path: Path) -> None:
    path, sung = tmp_path / INCEPTION.file, tmp_path / "sung"
    if writer == "torch":
        torch.save({"w": Canary(str(sung))}, path)
    else:
        path.write_bytes(pickle.dumps(Canary(str(sung)), protocol=2))
    with pytest.raises(UserError, match=r"inception.*not a plain file of weights"):
        load_network(EvalConfig(features="inception", inception_weights=str(path)), digits, CPU)
    assert not sung.exists()
