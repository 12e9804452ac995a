"""Projected GANs' discriminator (Table 4; arXiv 2111.01007): small heads on a frozen pretrained network."""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.files import check_weights
from act_ray.models.discriminators.stylegan2 import Conditioning, EqualLinear, full, project
from act_ray.weight_files import FEATURE_NETWORK, how_to_get

STRIDES = (4, 8, 16, 32)  # of the feature maps that are used
MIXED = (64, 128, 256, 512)  # channels after mixing across channels, finest first
SCALED = (64, 64, 128, 256)  # ... and after mixing across scales
EMBEDDING, PROJECTION = 256, 64  # widths of the embedding of t and the class, and of what a head projects on it


def build(cfg: Config, channels: int, size: int) -> nn.Module:
    """The network for `channels` x `size` x `size` images. Raises UserError for what cannot be built."""
    d = cfg.discriminator
    return ProjectedDiscriminator(
        channels, d.feature_network, d.feature_weights, d.feature_size, d.time_embedding, cfg.model.num_classes
    )


def check(cfg: Config, channels: int, size: int, world: int) -> None:
    """Raises UserError for images that are neither grey nor RGB."""
    _check_channels(channels)


def require_files(cfg: Config) -> None:
    """Raises UserError when timm, its network or the network's weights are missing."""
    require_feature_weights(cfg.discriminator.feature_network, cfg.discriminator.feature_weights)


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise UserError(f"discriminator.kind = 'projected': images of {channels} channels; it takes 1 or 3")


class ProjectedDiscriminator(nn.Module):
    """Logit of D(x, t', labels), the mean over four heads and their patches; [B,C,H,W], [B], [B] -> [B].

    `feature_network`: a name of timm's; `weights`: its file, or "random"; `size`: side that images are resized to.
    Only the heads train. Images have 1 or 3 channels, in [-1, 1]. Raises UserError for what cannot be built.
    """

    def __init__(
        self,
        channels: int,
        feature_network: str,
        weights: str | None,
        size: int,
        time_embedding: bool,
        num_classes: int | None,
    ) -> None:
        super().__init__()
        _check_channels(channels)
        self.features = FrozenFeatures(feature_network, weights, size)
        conditional = time_embedding or num_classes is not None
        self.embedding = Conditioning(EMBEDDING, time_embedding, num_classes) if conditional else None
        sides = [2 * size // stride for stride in STRIDES]
        self.heads = nn.ModuleList(Head(a, side, conditional) for a, side in zip(SCALED, sides, strict=True))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.features(x)
        embedding = None if self.embedding is None else self.embedding(t, labels)
        logits = [head(feature, embedding) for head, feature in zip(self.heads, maps, strict=True)]
        return torch.stack(logits).mean(0)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch the heads and embeddings; what is frozen stays frozen."""
        super().requires_grad_(requires_grad)
        self.features.requires_grad_(False)
        return self


class Head(nn.Module):
    """One scale's logit, [B,a,side,side] -> [B]: halved until at most 8x8, then a 4x4 convolution; mean of patches.

    GroupNorm, as the official code can have it, in place of BatchNorm: samples do not see each other, so that fakes and
    reals share a batch and workers need no exchange.
    """

    def __init__(self, a: int, side: int, conditional: bool) -> None:
        super().__init__()
        halvings = next(n for n in range(side.bit_length()) if side >> n <= 8)
        layers: list[nn.Module] = []
        for left in reversed(range(halvings)):
            b = max(64, 512 >> left)
            layers += [_conv(a, b, 2, 1, True), nn.GroupNorm(b // 2, b), nn.LeakyReLU(0.2, inplace=True)]
            a = b
        self.down = nn.Sequential(*layers)
        self.out = _conv(a, PROJECTION if conditional else 1, 1, 0, False)
        self.map = EqualLinear(EMBEDDING, PROJECTION) if conditional else None

    def forward(self, feature: Tensor, embedding: Tensor | None) -> Tensor:
        h = full(self.down(feature))
        with torch.autocast(h.device.type, enabled=False):  # cheap here, and a logit is a small difference
            out: Tensor = self.out(h).mean((2, 3))
            return out.squeeze(1) if self.map is None else project(out, self.map(embedding))


class Conv4x4(nn.Conv2d):
    """A convolution whose weight is normalised outside autocast, which on GPUs would mix bf16 and float32 in it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight
        out: Tensor = self._conv_forward(x, weight, self.bias)
        return out


def _conv(a: int, b: int, stride: int, padding: int, bias: bool) -> nn.Module:
    return spectral_norm(Conv4x4(a, b, 4, stride, padding, bias=bias))


# ---------------------------------------------------------------------------------------------- frozen features


class FrozenFeatures(nn.Module):
    """Four random projections of a pretrained network's feature maps; [B,1|3,H,W] in [-1, 1] -> finest first.

    Mixed across channels by random 1x1 convolutions, then across scales by random 3x3 ones, each on the sum of a level
    and the coarser level's result, upsampled. Nothing here is trained, nor leaves evaluation mode.
    """

    def __init__(self, name: str, weights: str | None, size: int) -> None:
        super().__init__()
        if size < 64 or size % 32:
            near = max(64, round(size / 32) * 32)
            raise UserError(f"discriminator.feature_size = {size}: a multiple of 32, at least 64; nearest: {near}")
        self.size = size
        self.network = feature_network(name, weights)
        self.map_indices, widths = _find_maps(self.network, name, size)
        self.across_channels = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, MIXED, strict=True))
        self.across_scales = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(MIXED, SCALED, strict=True))
        trained: Any = self.network.pretrained_cfg
        mean, std = (torch.tensor(trained[key]).view(3, 1, 1) for key in ("mean", "std"))
        self.register_buffer("scale", 0.5 / std, persistent=False)  # of [-1, 1] to (([0, 1]) - mean) / std
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.scale: Tensor
        self.shift: Tensor
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear")
        maps = self.network(x * self.scale + self.shift)  # here a grey channel becomes three
        mixed: list[Tensor] = []
        for level in reversed(range(len(STRIDES))):
            h = self.across_channels[level](maps[self.map_indices[level]])
            if mixed:
                h = h + mixed[-1]
            # Convolved before it is upsampled: a quarter of the work.
            h = F.interpolate(self.across_scales[level](h), scale_factor=2, mode="bilinear", align_corners=True)
            mixed.append(h)
        return mixed[::-1]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the network's batch statistics are part of its weights."""
        return self


def feature_network(name: str, weights: str | None) -> nn.Module:
    """timm's network `name` without its classifier, with a file's weights or "random" ones; raises UserError."""
    timm = _timm()
    require_feature_weights(name, weights)
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:  # each family of networks has its own way to refuse
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(_unusable(name, f"{type(error).__name__}: {first}")) from None
    if weights is not None and weights != "random":
        _load(network, Path(weights).expanduser(), name)
    return network.eval()


def require_feature_weights(name: str, weights: str | None) -> None:
    """Raises UserError when timm has no network `name`, or `weights` is neither "random" nor a file."""
    timm = _timm()
    if not timm.is_model(name):
        raise UserError(
            f"discriminator.feature_network = '{name}': no such network in timm; {nearest(name, timm.list_models())}"
        )
    if weights == "random" or (weights is not None and Path(weights).expanduser().is_file()):
        return
    what = "is not set" if weights is None else f"= {weights}: no such file"
    command = f" (or {how_to_get(FEATURE_NETWORK)})" if name == FEATURE_NETWORK.name else ""
    raise UserError(
        f"discriminator.feature_weights {what}; it needs timm's weights of {name}, such as "
        f"model.safetensors of huggingface.co/timm/{name}{command}: name that file here, or feature_weights=random for "
        "an untrained network in tests"
    )


def _timm() -> Any:
    """The library of pretrained networks, which only this kind needs: it takes seconds to import."""
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError("discriminator.kind = 'projected': needs timm: pip install 'act-ray[projected]'") from None
    return timm


def _load(network: nn.Module, path: Path, name: str) -> None:
    """Copy the file's tensors; it may hold more, such as the classifier."""
    given = {key.replace(".", "_"): value for key, value in _read(path).items()}
    own = network.state_dict()
    weights = {key: given.get(key.replace(".", "_")) for key in own}  # timm joins names of the parts it takes with "_"
    for key, value in weights.items():
        if key.endswith("num_batches_tracked"):  # old files lack it, and only training reads it
            weights[key] = own[key]
        elif not isinstance(value, Tensor) or value.shape != own[key].shape:
            raise UserError(f"{path}: not the weights of {name}: no '{key}' of shape {tuple(own[key].shape)}")
    network.load_state_dict(weights)


def _read(path: Path) -> dict[str, Tensor]:
    tensors: Any
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a safetensors file ({error}); fetch it again") from None
    else:
        check_weights(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    return tensors if isinstance(tensors, dict) else {}


def _find_maps(network: nn.Module, name: str, size: int) -> tuple[list[int], list[int]]:
    """Indices and channels of the feature maps at STRIDES, by trying: not every network has what it promises."""
    sides = [size // stride for stride in STRIDES]
    try:
        with torch.no_grad():
            shapes = [m.shape for m in network(torch.zeros(1, 3, size, size))]
    except Exception as error:
        raise UserError(_unusable(name, f"{type(error).__name__} for {size}x{size} images")) from None
    indices = [i for i, shape in enumerate(shapes) if shape[-1] in sides]
    if [tuple(shapes[i][-2:]) for i in indices] != [(side, side) for side in sides]:
        raise UserError(_unusable(name, "its feature maps are " + ", ".join(str(tuple(shape[1:])) for shape in shapes)))
    return indices, [shapes[i][1] for i in indices]


def _unusable(name: str, why: str) -> str:
    return (
        f"discriminator.feature_network = '{name}': {why}; it needs feature maps at strides 4, 8, 16 and 32, "
        "as of tf_efficientnet_lite0"
    )
