"""What the workers of one run must agree on; with one worker everything here is the identity."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from act_ray.errors import UserError

T = TypeVar("T")


class Ranks:
    """This worker's place among `world` data-parallel workers (torch.distributed, when it is initialised)."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.active = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.active else 0
        self.world = dist.get_world_size() if self.active else 1
        self.device = device or torch.device("cpu")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Mean over workers, on the device; the same bits on each."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def average(self, values: list[Tensor]) -> None:
        """Each becomes its mean over the workers, in place: one exchange, and the same bits on each."""
        if self.world == 1 or not values:
            return
        together = torch.cat([value.flatten() for value in values])
        dist.all_reduce(together)
        together /= self.world
        means = torch.split(together, [value.numel() for value in values])
        torch._foreach_copy_(values, [mean.view_as(value) for mean, value in zip(means, values, strict=True)])

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, in order of rank, on each."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def to_first(self, value: Any) -> list[Any]:
        """Every worker's value, in order of rank, on rank 0; nothing on the others, which it would only fill."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def together(self, function: Callable[[], T]) -> T:
        """Call `function` on every worker; a UserError on some is raised on all: else the others would wait."""
        result: Any = None
        problem = None
        try:
            result = function()
        except UserError as error:
            problem = error
        for first in self.gather(problem):
            if first is not None:
                raise first
        return result  # type: ignore[no-any-return]

    def on_first(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0; its result, or the UserError it raised, on each worker: else they would wait."""
        result: Any = None
        if self.first:
            try:
                result = function(), None
            except UserError as error:
                result = None, error
        value, problem = self.from_first(result)
        if problem is not None:
            raise problem
        return value  # type: ignore[no-any-return]

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on each worker."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]
