"""Feature networks behind the Frechet distance: FID's InceptionV3 as torch-fidelity has it, or a small classifier."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData
from act_ray.errors import UserError
from act_ray.files import check_weights
from act_ray.metrics.classifier import ClassifierFeatures, classifier_weights
from act_ray.metrics.scores import inception_file
from act_ray.metrics.self_supervised import self_supervised_weights
from act_ray.weight_files import INCEPTION, how_to_get

FORWARD_IMAGES = 64  # per forward pass, as torch-fidelity has it: on the CPU, Inception takes 4 GB for 250


class FeatureNetwork(Protocol):
    """uint8 [B,3,H,W] -> the features [B,d], and after them the logits [B,classes] where they were asked for."""

    def __call__(self, images: Tensor, /) -> tuple[Tensor, ...]: ...
    def get_name(self) -> str: ...
    def to(self, device: torch.device, /) -> Self: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, weights: dict[str, Any], /) -> object: ...


def load_network(
    cfg: EvalConfig,
    data: ImageData,
    device: torch.device,
    say: Callable[[str], None] = lambda line: None,
    *,
    logits: bool = False,
) -> FeatureNetwork:
    """The network of `eval.features` on `device`; `say` hears of a long wait. Raises UserError without its weights.

    logits: Inception's second output are then those of the Inception score.
    """
    if cfg.features == "classifier":
        return ClassifierFeatures(classifier_weights(data, say)).to(device)
    if cfg.features == "self_supervised":
        return ClassifierFeatures(self_supervised_weights(data, say), "act-ray-self-supervised").to(device)
    assert cfg.features == "inception", f"eval.features = {cfg.features} has no network"
    return _load_inception(inception_weights(cfg), logits).to(device)


def inception_weights(cfg: EvalConfig) -> str:
    """Path of InceptionV3's weights: as configured or in torch hub's cache. Raises UserError naming the file to put."""
    path = inception_file(cfg)
    if not path.exists():
        raise UserError(
            f"eval.features = 'inception': no weights at {path}; {how_to_get(INCEPTION)} puts torch-fidelity's "
            f"{INCEPTION.file} into torch hub's folder (or name it with eval.inception_weights), or use "
            "eval.features=self_supervised"
        )
    check_weights(path)
    return str(path)


def _load_inception(weights: str, logits: bool) -> FeatureNetwork:
    # Imported here: torch-fidelity brings torchvision, two seconds that runs with a classifier need not wait.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: FeatureNetwork = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", *(["logits_unbiased"] if logits else [])],
            feature_extractor_weights_path=weights,
        )
    return network.requires_grad_(False).eval()  # type: ignore[attr-defined, no-any-return]


def weights_digest(network: FeatureNetwork) -> str:
    """Hex SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()


@torch.no_grad()
def compute_outputs(network: FeatureNetwork, images: Tensor) -> list[Tensor]:
    """uint8 [B,C,H,W] -> the network's outputs, float32 [B,d] each, on the CPU; grey is repeated to three channels."""
    device = next(network.parameters(), torch.empty(0)).device
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    parts = [network(part.to(device)) for part in torch.split(images, FORWARD_IMAGES)]
    return [torch.cat(output).float().cpu() for output in zip(*parts, strict=True)]


def compute_features(network: FeatureNetwork, images: Tensor) -> Tensor:
    """uint8 [B,C,H,W] -> the first output, float32 [B,d], on the CPU."""
    return compute_outputs(network, images)[0]
