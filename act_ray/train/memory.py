"""A GPU that is too small: one line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from act_ray.errors import UserError


@contextmanager
def needing_memory(name: str, value: int, multiple: int = 1) -> Iterator[None]:
    """Raises UserError where the GPU's memory runs out in the block.

    name: the setting that decides how much it takes. multiple: what its values must be multiples of.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = ". ".join(" ".join(str(error).split()).split(". ")[:3])  # what was wanted, and what there is
        half = value // 2 // multiple * multiple
        hint = f"try {half}" if half else "it cannot be less; try smaller model.block_out_channels"
        raise UserError(f"{name} = {value}: needs more memory than the GPU has: {said.rstrip('.')}; {hint}") from None
