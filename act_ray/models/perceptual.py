"""LPIPS as the distance d of L_CT: torch-fidelity's network with local or downloadable weights.

Its forward pass is here: torch-fidelity's copies constants from the host for each image, which waits for the GPU.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act_ray.config import LossConfig
from act_ray.errors import UserError
from act_ray.files import check_weights
from act_ray.weight_files import LPIPS_FILES, how_to_get


class Lpips(nn.Module):
    """d(a, b) per sample for images in [-1, 1], of which b is the target; [B,3,H,W] -> [B].

    Never trained. Resizing and clipping as the authors' code has them, or torch-fidelity.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: LossConfig) -> None:
        # Only here: a run with another distance does not wait for torchvision, which comes with it.
        from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

        super().__init__()
        require_weights(cfg)
        fidelity = SampleSimilarityLPIPS("lpips").requires_grad_(False).eval()
        self.features = fidelity.net  # VGG16 up to relu5_3: its five levels
        self.weights = nn.ModuleList(level.model[-1] for level in fidelity.lins)  # without their dropout
        self.size, self.area, self.clip = cfg.lpips_size, cfg.lpips_resize == "area", cfg.lpips_clip_target
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        levels_a, levels_b = self.levels(a), self.levels(b.clamp(-1, 1) if self.clip else b)
        distances = [
            weight((unit(of_a) - unit(of_b)) ** 2).mean((1, 2, 3))
            for weight, of_a, of_b in zip(self.weights, levels_a, levels_b, strict=True)
        ]
        return torch.stack(distances).sum(0)

    def levels(self, x: Tensor) -> tuple[Tensor, ...]:
        """VGG16's features of images in [-1, 1] at five depths."""
        if self.size is not None:
            small = min(x.shape[2:]) <= self.size  # an area is a mean: only where it shrinks
            x = F.interpolate(x, (self.size, self.size), mode="bilinear" if small or not self.area else "area")
        x = (x - self.mean) / self.std
        if x.is_cuda:
            x = x.contiguous(memory_format=torch.channels_last)
        found: tuple[Tensor, ...] = self.features(x)
        return found


def require_weights(cfg: LossConfig) -> None:
    """Point torch hub at the weights; raises UserError naming the missing files, or one that is more than tensors."""
    if cfg.lpips_weights is not None:
        torch.hub.set_dir(cfg.lpips_weights)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    missing = [weights for weights in LPIPS_FILES if not (folder / weights.file).exists()]
    if missing:
        raise UserError(
            f"loss.distance = 'lpips': {' and '.join(w.file for w in missing)} not in {folder}; "
            f"{how_to_get(*missing)} fetches what is missing to torch hub's own folder; or name another with "
            "loss.lpips_weights, or use loss.distance=pseudo_huber"
        )
    for weights in LPIPS_FILES:
        check_weights(folder / weights.file)


def unit(features: Tensor) -> Tensor:
    """Each pixel's features at length 1."""
    normed: Tensor = features / ((features**2).sum(1, keepdim=True).sqrt() + 1e-10)
    return normed
