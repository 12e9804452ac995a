"""What shows how a training is going besides its score: D on images that it never saw, and L_CT at single levels.

The same images and the same noise at every evaluation, so that two evaluations differ by the networks alone.
"""

import numpy as np
import torch
from torch import Tensor

from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.schedule import noise_level, num_levels
from act_ray.core.step import TrainState, add_noise, discriminate, unwrap
from act_ray.data.shards import ImageData
from act_ray.train.batches import gather, held_out_indices, training_indices

IMAGES = 256  # at most, of each kind, and no more than a batch of eval.batch


@torch.no_grad()
def measure_witnesses(state: TrainState, data: ImageData, cfg: Config, device: torch.device) -> dict[str, float]:
    """`loss_ct_low`, `loss_ct_high`: L_CT in the lower and the upper half of the noise levels, where there is an L_CT.

    `d_train`, `d_fake` and, with data.held_out, `d_held`: mean logits of D for images that it trains on, for the
    model's answers to them, and for images that nothing was trained on. An overfitting D tells the first from the last
    (ADA, arXiv 2006.06676, its r_v).
    """
    n, step, most = len(data.images), cfg.step, min(IMAGES, cfg.eval.batch)
    x, labels = gather(data, cfg, np.sort(training_indices(cfg, n)[:most]), None, device)
    noise = Noise(cfg.train.seed, 0, device, name="witnesses")
    N = num_levels(state.step, step.total_steps, step.schedule)
    model, out = unwrap(state.model), dict[str, float]()
    networks = [model, *([unwrap(state.D)] if cfg.adversarial else [])]
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()  # no dropout, and no power iteration of a spectral norm, which would change D
    j = 1 + (noise.uniform(len(x)) * (N - 1)).long()
    z = noise.normal(*x.shape)
    t, t_prev = noise_level(j, N, step.schedule), noise_level(j - 1, N, step.schedule)
    x_t = add_noise(x, t, z)
    fake = model(x_t, t, labels)
    if cfg.consistent:
        x_prev = add_noise(x, t_prev, z) if state.ode_step is None else state.ode_step(x_t, t, t_prev, labels)
        loss = state.distance(fake, state.teacher(x_prev, t_prev, labels))
        for name, where in (("loss_ct_low", 2 * j < N), ("loss_ct_high", 2 * j >= N)):
            if where.any():
                out[name] = float(loss[where].mean())
    if cfg.adversarial:

        def logit(images: Tensor, noisy: Tensor, levels: Tensor, of: Tensor | None) -> float:
            return float(discriminate(unwrap(state.D), images, noisy, levels, of, step).float().mean())

        out["d_fake"], out["d_train"] = logit(fake, x_t, t, labels), logit(x, x_t, t, labels)
        if len(held := held_out_indices(cfg, n)[:most]):
            x, labels = gather(data, cfg, np.sort(held), None, device)
            # The levels, and so the only thing that D knows besides the image, are drawn alike.
            t = noise_level(1 + (noise.branch("held out").uniform(len(x)) * (N - 1)).long(), N, step.schedule)
            out["d_held"] = logit(x, add_noise(x, t, noise.normal(*x.shape)), t, labels)
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    return out
