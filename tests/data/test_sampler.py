import numpy as np
import pytest

from act_ray.data.sampler import _permutation, batch_indices


@pytest.mark.parametrize(("n", "batch"), [(10, 5), (10, 3), (10, 25), (1, 4), (7, 7), (97, 10)])
def test_every_epoch_holds_every_image_once(n: int, batch: int) -> None:
    epochs = 5
    stream = np.concatenate([batch_indices(n, batch, 3, step) for step in range(-(-epochs * n // batch))])
    for epoch in range(epochs):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_order_depends_on_seed_and_step_alone() -> None:
    forward = [batch_indices(50, 8, 1, step) for step in range(30)]
    _permutation.cache_clear()
    for step in reversed(range(30)):
        batch_indices(31, 4, 9, step)  # another user in between
        np.testing.assert_array_equal(batch_indices(50, 8, 1, step), forward[step])
    assert not np.array_equal(batch_indices(50, 50, 1, 0), batch_indices(50, 50, 2, 0))
    assert not np.array_equal(batch_indices(50, 50, 1, 0), batch_indices(50, 50, 1, 1))


def test_a_batch_straddles_epochs() -> None:
    first, second = batch_indices(10, 10, 4, 0), batch_indices(10, 10, 4, 1)
    straddling = batch_indices(10, 4, 4, 2)  # positions 8..11
    np.testing.assert_array_equal(straddling, np.concatenate([first[8:], second[:2]]))


def test_the_order_is_the_same_on_every_machine_and_release() -> None:
    assert batch_indices(10, 10, 0, 0).tolist() == GOLDEN
    assert batch_indices(10, 10, 0, 0).dtype == np.int64


GOLDEN = [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


def test_the_caller_may_write_into_a_batch() -> None:
    batch_indices(5, 5, 0, 0)[:] = 0
    assert sorted(batch_indices(5, 5, 0, 0)) == list(range(5))


def test_a_shuffle_is_uniform() -> None:
    firsts = np.bincount([batch_indices(4, 4, seed, 0)[0] for seed in range(2000)], minlength=4)
    assert (abs(firsts - 500) < 100).all()  # five standard deviations


@pytest.mark.parametrize("bad", [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, -1, 0), (1, 1, 0, -1), (1, 1, 1 << 64, 0)])
def test_nonsense_is_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="need n >= 1"):
        batch_indices(*bad)
