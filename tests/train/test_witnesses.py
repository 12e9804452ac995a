"""Images kept back, and what is measured beside the score."""

import numpy as np
import pytest
import torch

from act_ray.data.shards import open_data
from act_ray.train.batches import held_out_indices, step_indices
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state
from act_ray.train.witnesses import measure_witnesses
from tests.helpers.tiny_runs import tiny


@pytest.mark.parametrize(("subset", "kept", "used"), [(None, 449, 1797), (40, 10, 40)])
def test_images_kept_back_are_in_no_batch_and_all_others_are_in_one(subset: int | None, kept: int, used: int) -> None:
    cfg = tiny({"data.held_out": 0.25, "data.subset": subset})
    held = set(held_out_indices(cfg, 1797).tolist())
    epoch = -(-(used - kept) // (2 * cfg.train.global_batch))
    seen = {index for step in range(epoch) for index in step_indices(cfg, 1797, step).tolist()}
    assert len(held) == kept
    assert len(seen) == used - kept
    assert not seen & held


def test_without_images_kept_back_the_order_is_what_it_was() -> None:
    assert np.array_equal(step_indices(tiny({"data.held_out": 0.0}), 1797, 3), step_indices(tiny(), 1797, 3))


def test_a_discriminator_that_knows_its_images_is_seen_to() -> None:
    cfg = tiny({"data.held_out": 0.1, "data.subset": 60})
    data = open_data("digits")
    state = build_state(cfg, data, Ranks(), print)

    class Memory(torch.nn.Module):
        """3 for the images that it trains on, 1 for other real ones, -2 for the rest."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            real = torch.from_numpy(data.images).flatten(1).float() / 127.5 - 1
            near, which = torch.cdist(x.flatten(1), real, compute_mode="donot_use_mm_for_euclid_dist").min(1)
            trained_on = torch.from_numpy(np.isin(which.numpy(), held_out_indices(cfg, 1797), invert=True))
            return torch.where(near > 1e-3, -2.0, torch.where(trained_on, 3.0, 1.0))

    state.discriminator = Memory()
    found = measure_witnesses(state, data, cfg, torch.device("cpu"))
    assert {name: found[name] for name in ("d_train", "d_held", "d_fake")} == {"d_train": 3, "d_held": 1, "d_fake": -2}
    state.step = cfg.train.total_steps - 1  # all levels
    assert {"loss_ct_low", "loss_ct_high"} <= set(measure_witnesses(state, data, cfg, torch.device("cpu")))


def test_what_a_run_does_not_have_is_not_measured() -> None:
    data = open_data("digits")
    for over, missing in (({"loss.w": 0.0, "loss.w_mid": 0.0}, "d_"), ({"loss.w": 1.0, "loss.w_mid": 1.0}, "loss_ct")):
        cfg = tiny(over)
        found = measure_witnesses(build_state(cfg, data, Ranks(), print), data, cfg, torch.device("cpu"))
        assert found
        assert not any(name.startswith(missing) for name in found)


def test_measuring_changes_nothing() -> None:
    """A spectral norm's power iteration moves its buffers in training."""
    cfg, data = tiny(), open_data("digits")
    state = build_state(cfg, data, Ranks(), print)
    head = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(64, 1))

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return self.head(x.flatten(1))[:, 0]

    state.discriminator = Head().train()
    before = {name: value.clone() for name, value in state.discriminator.state_dict().items()}
    measure_witnesses(state, data, cfg, torch.device("cpu"))
    assert state.discriminator.training
    assert all(torch.equal(value, before[name]) for name, value in state.discriminator.state_dict().items())
