"""The parts of diffusers that the networks are made of, without what else importing them would import.

They lie in packages that import each of their hundred models, and with those torchvision and scipy.stats: two of the
eight seconds of a core that a process takes before it trains.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def only_what_is_named(*packages: str) -> Iterator[None]:
    """In the block a module of these packages is imported without the package's own __init__, which runs later on."""
    shells = {name: ModuleType(name) for name in packages if name not in sys.modules}
    for name, shell in shells.items():
        parent, _, last = name.rpartition(".")
        found = find_spec(parent)
        assert found is not None, parent
        shell.__path__ = [f"{folder}/{last}" for folder in found.submodule_search_locations or ()]
    sys.modules.update(shells)
    try:
        yield
    finally:
        for name in shells:
            del sys.modules[name]


with only_what_is_named("diffusers.models.unets", "diffusers.models.transformers"):
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets.unet_2d import UNet2DModel

__all__ = ["ResnetBlock2D", "TimestepEmbedding", "Timesteps", "UNet2DModel"]
