"""RAdam by Adam's fused kernel: the same update in one pass over weights, gradients and moments."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FIRST_STEPS = 5.0  # rho_t up to which the second moment is not used: Liu et al. 2020 (torch has this 5 as well)


class FusedRAdam(torch.optim.RAdam):
    """torch.optim.RAdam without weight decay, to round-off; its state and settings are RAdam's own.

    Once rho_t > 5 RAdam is Adam with r_t times the learning rate, and with eps / sqrt(1 - beta2^t) for eps, since it
    adds eps to the second moment's root before it corrects the bias. Adam has a fused kernel, RAdam has none. The few
    steps before that are torch's own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._taken: dict[int, tuple[int, int]] = {}  # of each group: weights that had a gradient, and their updates

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        steps = [self._steps(number, weights) for number, (_, weights) in enumerate(groups)]
        rates = [
            0.0 if step is None else rectified(step + 1, group["betas"][1])
            for (group, _), step in zip(groups, steps, strict=True)
        ]
        self._taken = {
            number: (len(weights), step + 1)
            for number, ((_, weights), step) in enumerate(zip(groups, steps, strict=True))
            if step is not None
        }
        if closure is not None or 0 in rates or not all(_alike(weights) for _, weights in groups):
            done: float | None = super().step(closure)
            return done
        for (group, weights), step, rate in zip(groups, steps, rates, strict=True):
            assert step is not None  # its rate would be 0
            self._fused(group, weights, step + 1, rate)
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self._taken = {}

    def _steps(self, number: int, weights: list[Tensor]) -> int | None:
        """How many updates these weights of a group have had; None where they differ, or for none.

        Counted here, and read from the state only after it was loaded, or where other weights have a gradient.
        """
        count, taken = self._taken.get(number, (None, 0))
        if count == len(weights):
            return taken
        steps = {int(self.state[p]["step"]) if self.state[p] else 0 for p in weights}
        return steps.pop() if len(steps) == 1 else None

    def _fused(self, group: dict[str, Any], weights: list[Tensor], step: int, rate: float) -> None:
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in weights]
        torch._foreach_add_([state["step"] for state in states], 1)
        torch._fused_adam_(
            weights,
            [p.grad for p in weights if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [torch.full((), float(step), device=weights[0].device)] * len(weights),  # a fill: no wait for a GPU
            lr=group["lr"] * rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )


def _alike(weights: list[Tensor]) -> bool:
    """Whether each gradient lies in memory as its weight does, for the kernel looks at neither's strides."""
    return all(p.grad is not None and p.grad.stride() == p.stride() for p in weights)


def rectified(t: int, beta2: float) -> float:
    """r_t, which multiplies the learning rate at update t = 1, 2, ...; 0 while rho_t <= 5."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= FIRST_STEPS:
        return 0.0
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
