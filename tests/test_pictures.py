import torch

from act_ray.pictures import to_uint8


def test_to_uint8_rounds_to_the_nearest_and_inverts_the_input() -> None:
    levels = torch.arange(256)
    x = levels.float() / 127.5 - 1  # as fetch() maps pixels to [-1, 1]
    for nudge in (0, 0.49 / 127.5, -0.49 / 127.5):
        assert torch.equal(to_uint8(x + nudge), levels.to(torch.uint8))
    assert to_uint8(torch.tensor([-3.0, 3.0, -1.0, 1.0])).tolist() == [0, 255, 0, 255]
    assert to_uint8(x).dtype == torch.uint8
