"""The kinds of a search space's parameters: what each can take, how it is drawn, and what Optuna calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KINDS = ("choice", "uniform", "loguniform", "randint", "grid")


def endpoints(kind: str, values: list[Any]) -> list[Any]:
    """The values that a parameter's kind takes at its ends; all of them where they are listed."""
    return [values[0], values[1] - 1] if kind == "randint" else values


def draw_value(kind: str, values: list[Any], rng: np.random.RandomState) -> Any:
    """One value of a parameter; the same as Ray Tune's domains draw from the same generator."""
    match kind:
        case "uniform":
            return float(rng.uniform(values[0], values[1], size=1)[0])
        case "loguniform":
            return float(np.exp(rng.uniform(np.log(values[0]), np.log(values[1]), size=1))[0])
        case "randint":
            return int(rng.randint(values[0], values[1], size=1)[0])
        case _:
            return values[int(rng.choice(np.arange(len(values)), size=1)[0])]


def distribution(kind: str, values: list[Any]) -> BaseDistribution:
    """Optuna's name for a parameter of a search space."""
    import optuna  # slow, and only some searches need it

    match kind:
        case "uniform" | "loguniform":
            return optuna.distributions.FloatDistribution(*values, log=kind == "loguniform")
        case "randint":
            return optuna.distributions.IntDistribution(values[0], values[1] - 1)
        case _:
            return optuna.distributions.CategoricalDistribution(values)
