"""The table of metrics, and all of them against torch-fidelity's own command on PNG files."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData
from act_ray.errors import UserError
from act_ray.metrics.features import FeatureNetwork, compute_outputs, load_network
from act_ray.metrics.kernel_distance import kernel_distance
from act_ray.metrics.metrics import METRICS, check_network, compute, kept_outputs, parse_metrics
from act_ray.metrics.moments import Chunk, Measured, combine, measured
from act_ray.metrics.precision_recall import precision_recall
from act_ray.metrics.reference import Reference, load_reference, measure_images

CPU = torch.device("cpu")
THEIRS = {
    "fid": "frechet_inception_distance",
    "is": "inception_score_mean",
    "is_std": "inception_score_std",
    "kid": "kernel_inception_distance_mean",
    "kid_std": "kernel_inception_distance_std",
    "precision": "precision",
    "recall": "recall",
    "f_score": "f_score",
}

# ---------------------------------------------------------------------------------------------- torch-fidelity


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights for torch-fidelity's InceptionV3: random, of He's variance, so that images still differ."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr("torch.load", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(net.state_dict(), path)
    return str(path)


class Images:
    """Random blobs of 32x32, `real` ones and `samples` of other colours, as arrays and as folders of PNG files."""

    def __init__(self, folder: Path, n: int, m: int) -> None:
        rng = np.random.default_rng(0)
        self.samples, self.real = self.blobs(rng, n, 0.8), self.blobs(rng, m, 1.0)
        self.folders = []
        for name, images in (("samples", self.samples), ("real", self.real)):
            (folder / name).mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / name / f"{i:06}.png")
            self.folders.append(str(folder / name))

    @staticmethod
    def blobs(rng: np.random.Generator, n: int, blue: float) -> np.ndarray:
        coarse = rng.uniform(0, 255, (n, 3, 4, 4)) * np.array([1, 1, blue])[:, None, None]
        return coarse.repeat(8, 2).repeat(8, 3).astype(np.uint8)


def ours(images: Images, network: FeatureNetwork, asked: Collection[str]) -> dict[str, float]:
    """As an evaluation does it: the samples in batches of 7, the real images through the reference's cache."""
    data = ImageData(images.real, None, 0, f"{images.real.shape}", "blobs")

    def real(chunks: Sequence[Chunk], kept: list[int]) -> Iterator[Measured]:
        return (measure_images(network, data, chunk, kept) for chunk in chunks)

    batches = torch.from_numpy(images.samples).split(7)
    part = combine(
        (measured(compute_outputs(network, batch), kept_outputs(asked)) for batch in batches), len(images.samples)
    )
    return compute(asked, part, load_reference(network, data, real, features=True))


class Twice(nn.Module):
    """A network whose one output stands for the features and for the logits."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (*self.network(images), *self.network(images))

    def get_name(self) -> str:
        return "twice"


def theirs(images: Images, weights: str, **more: Any) -> dict[str, float]:
    """torch-fidelity's command on the PNG files; its defaults, but for KID's subsets, which it wants smaller here."""
    found = calculate_metrics(
        input1=images.folders[0], input2=images.folders[1], isc=True, fid=True, kid=True, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=weights,
        kid_subset_size=min(len(images.samples), len(images.real)), cuda=False, cache=False, verbose=False,
        save_cpu_ram=True, **more,
    )  # fmt: skip
    return {name: found[long] for name, long in THEIRS.items()}


def test_metrics_are_those_of_torch_fidelity(inception: str, tmp_path: Path) -> None:
    """In the features of Inception's first layers, which cost a hundredth of the last ones'."""
    images = Images(tmp_path, 20, 24)
    network = create_feature_extractor(
        "inception-v3-compat", ["64"], cuda=False, verbose=False, feature_extractor_weights_path=inception
    )
    layers = {f"feature_layer_{metric}": "64" for metric in ("isc", "fid", "kid", "prc")}
    expected = theirs(images, inception, **layers)
    assert min(expected["fid"], expected["kid"], expected["is"] - 1, expected["precision"]) > 1e-4
    assert 0 < expected["recall"] < 1 or 0 < expected["precision"] < 1  # neither is of all or none
    assert ours(images, Twice(network), METRICS) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_metrics_in_inceptions_own_layers_are_those_of_torch_fidelity(inception: str, tmp_path: Path) -> None:
    """2,048 features and logits in one pass; what `evaluate` computes, against what `fidelity` prints."""
    images = Images(tmp_path, 32, 40)
    cfg = EvalConfig(features="inception", inception_weights=inception)
    data = ImageData(images.real, None, 0, "blobs", "blobs")
    network = load_network(cfg, data, CPU, logits=True)
    assert ours(images, network, METRICS) == pytest.approx(theirs(images, inception), rel=1e-3)


# ---------------------------------------------------------------------------------------------- the table


def test_names_are_parsed_and_a_wrong_one_gets_the_nearest() -> None:
    assert parse_metrics(" kid,fid,kid") == ["kid", "fid"]
    with pytest.raises(UserError, match=r"--metrics fid,kidd: no metric 'kidd'; did you mean 'kid'\?"):
        parse_metrics("fid,kidd")


def test_a_metric_says_which_feature_networks_it_allows() -> None:
    check_network(METRICS, "inception")
    check_network(["fid", "kid", "prc"], "classifier")
    with pytest.raises(UserError, match="--metrics is: the Inception score needs --features inception, not classifier"):
        check_network(["fid", "is"], "classifier")


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_every_metric_refuses_samples_without_finite_outputs(name: str, bad: float) -> None:
    """Precision and recall made ordinary numbers of them."""
    features, real = torch.randn(40, 3), torch.randn(50, 3)
    reference = Reference({"mu": real.mean(0).numpy(), "sigma": torch.cov(real.T).numpy()}, real)
    outputs = [features, torch.randn(40, 5)]
    outputs[METRICS[name].takes == "logits"][[3, 7], 1] = bad
    with pytest.raises(UserError, match="2 of 40 samples have features that are not finite"):
        compute([name], measured(outputs, kept_outputs([name])), reference)


@pytest.mark.parametrize("function", [kernel_distance, precision_recall])
def test_a_function_alone_refuses_either_side(function: Callable[..., object]) -> None:
    good, bad = torch.randn(40, 3), torch.randn(50, 3)
    bad[11, 0] = float("nan")
    with pytest.raises(UserError, match="1 of 50 real images"):
        function(good, bad)
    with pytest.raises(UserError, match="1 of 50 samples"):
        function(bad, good)
