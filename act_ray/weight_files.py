"""The weights that are not included: what each is for, where it is looked for, and where it comes from."""

import os
from dataclasses import dataclass
from pathlib import Path

from act_ray.typed import typed


@dataclass(frozen=True)
class WeightFile:
    """One file.

    name: what `act_ray.weights` calls it. sha256: its hex digest, or the first digits where nobody publishes more.
    size: bytes, for people. purpose: the setting that needs it.
    """

    name: str
    url: str
    sha256: str
    size: int
    purpose: str

    @property
    def file(self) -> str:
        """Its name in torch hub's folder."""
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Where it is looked for, unless a setting names another file."""
        return hub_checkpoints() / self.file

    @property
    def digits(self) -> str:
        """How much of the SHA-256 is known."""
        return "SHA-256" if len(self.sha256) == 64 else f"SHA-256, first {len(self.sha256)} digits"

    def is_right(self, digest: str) -> bool:
        """Whether a file with this hex SHA-256 is the one."""
        return digest.startswith(self.sha256)


# The addresses are those in torch-fidelity's, torchvision's and timm's own code, whose file names end in the first
# digits of the SHA-256. LPIPS's is that of lpips/weights/v0.1/vgg.pth in the package lpips 0.1.4.
_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
INCEPTION = WeightFile(
    "inception",
    f"{_FIDELITY}weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
    "eval.features=inception: FID",
)
LPIPS = WeightFile(
    "lpips",
    f"{_FIDELITY}weights-vgg16-lpips.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    7_289,
    "loss.distance=lpips, with vgg16",
)
VGG16 = WeightFile(
    "vgg16",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    553_433_881,
    "loss.distance=lpips, with lpips",
)
FEATURE_NETWORK = WeightFile(
    "tf_efficientnet_lite0",
    f"{_TIMM}tf_efficientnet_lite0-0aa007d2.pth",
    "0aa007d2",
    18_700_000,
    "discriminator.kind=projected",
)
LPIPS_FILES = (LPIPS, VGG16)
WEIGHT_FILES = (INCEPTION, *LPIPS_FILES, FEATURE_NETWORK)


def hub_checkpoints() -> Path:
    """Torch hub's folder of weights, as torch.hub.get_dir() has it; without torch, which takes seconds to import."""
    cache = os.getenv("TORCH_HOME") or os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(cache).expanduser() / "hub" / "checkpoints"


def how_to_get(*files: WeightFile) -> str:
    """The command that fetches these."""
    return f"`{typed('weights')} get {' '.join(file.name for file in files)}`"
