"""Images beside each other."""

import numpy as np
import torch

from act_ray.figures.mosaic import Mosaic


def test_a_mosaic_holds_every_image_at_its_place() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(4, 2, 3, 1, 1).expand(4, 2, 3, 8, 8)
    mosaic = Mosaic(images, group=2)
    for r, y in enumerate(mosaic.centres_y):
        for c, x in enumerate(mosaic.centres_x):
            assert mosaic.canvas[round(y), round(x)].tolist() == images[r, c, :, 0, 0].tolist()
    gaps = np.diff(mosaic.centres_y)
    assert gaps[0] == gaps[2] < gaps[1]
    assert (mosaic.canvas == 255).mean() < 0.25
