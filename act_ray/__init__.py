"""act_ray: Adversarial Consistency Training on Ray, and a search that stops runs which are going to collapse.

The names below are the public API; each is imported when it is first used, so that `import act_ray` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Detector",
    "Generator",
    "UserError",
    "evaluate_model",
    "load_config",
    "load_generator",
    "run_search",
    "sample_images",
    "train_model",
]

if TYPE_CHECKING:
    from act_ray.api import (
        evaluate_model,
        load_config,
        load_generator,
        run_search,
        sample_images,
        train_model,
    )
    from act_ray.collapse.detector import Detector
    from act_ray.config import Config
    from act_ray.errors import UserError
    from act_ray.generators.generator import Generator

# The functions' names are not those of the verbs' packages (act_ray.train, act_ray.evaluate, ...).
_HOMES = {
    "Config": "act_ray.config",
    "Detector": "act_ray.collapse.detector",
    "Generator": "act_ray.generators.generator",
    "UserError": "act_ray.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'act_ray' has no attribute '{name}'")
    return getattr(import_module(_HOMES.get(name, "act_ray.api")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
