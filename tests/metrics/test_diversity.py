import pytest
import torch

from act_ray.data.shards import ImageData, open_data
from act_ray.metrics.diversity import diversity, spread


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_data("digits")


def test_diversity_of_data_is_1_and_of_one_image_0(digits: ImageData) -> None:
    assert diversity(torch.from_numpy(digits.images[400:656]), digits) == pytest.approx(1, abs=0.03)
    assert diversity(torch.from_numpy(digits.images[:1]).expand(256, -1, -1, -1), digits) == 0
    dull = 128 + (torch.from_numpy(digits.images[400:656]).float() - 128) / 2
    assert diversity(dull.to(torch.uint8), digits) == pytest.approx(0.5, abs=0.03)


def test_spread_is_the_mean_distance_of_pairs() -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    images[1] += 3  # 6 from both others, in 4 pixels
    assert spread(images) == pytest.approx((6 + 0 + 6) / 3)
