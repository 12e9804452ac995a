"""LPIPS as the distance d of L_CT: torch-fidelity's network with local or downloadable weights."""

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

    Never trained, never in training mode. Resizing and clipping as the authors' code has them, or torch-fidelity.
    """

    def __init__(self, cfg: LossConfig) -> None:
        # Only here: a run with another distance does not wait for torchvision, which comes with it.
        from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

        super().__init__()
        require_weights(cfg)
        area = cfg.lpips_size if cfg.lpips_resize == "area" else None
        self.net = SampleSimilarityLPIPS("lpips", sample_similarity_resize=area).requires_grad_(False).eval()
        self.size = cfg.lpips_size if cfg.lpips_resize == "bilinear" else None
        self.clip = cfg.lpips_clip_target

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        b = b.clamp(-1, 1) if self.clip else b
        if self.size is not None:
            a, b = (F.interpolate(x, size=self.size, mode="bilinear") for x in (a, b))
        out: Tensor = self.net(127.5 * (a + 1), 127.5 * (b + 1)).float().flatten()
        return out

    def train(self, mode: bool = True) -> "Lpips":
        """Stay in evaluation mode: the network holds dropout layers."""
        return self


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
