"""Random draws that depend on (seed, step) alone, whatever the number of workers."""

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Draws for one training step: every worker draws the whole global batch and keeps its own slice.

    So W workers with B/W images each see exactly what one worker with B images sees, and a resumed run draws what
    the uninterrupted one would have: there is no generator state to save.
    """

    def __init__(
        self, seed: int, step: int, device: torch.device, rank: int = 0, world: int = 1, name: str = ""
    ) -> None:
        self.seed, self.step, self.device, self.rank, self.world, self.name = seed, step, device, rank, world, name
        mixed = np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1, np.uint64)[0]
        self.generator = torch.Generator(device).manual_seed(int(mixed) >> 1)
        self._parts: list[Noise] = []

    def branch(self, name: str) -> "Noise":
        """Draws of the same step that no other draw shifts, and that shift no other."""
        return type(self)(self.seed, self.step, self.device, self.rank, self.world, f"{self.name}/{name}")

    def parts(self, n: int) -> "list[Noise]":
        """This worker's draws in n equal slices of its batch, one for each micro-batch; asked for before any draw.

        Each goes on where it stopped, as this does: the same ones are returned again.
        """
        if n > 1 and len(self._parts) != n:
            mine = range(self.rank * n, (self.rank + 1) * n)
            self._parts = [type(self)(self.seed, self.step, self.device, i, self.world * n, self.name) for i in mine]
        return self._parts if n > 1 else [self]

    def _mine(self, drawn: Tensor) -> Tensor:
        size = len(drawn) // self.world
        return drawn[self.rank * size : (self.rank + 1) * size]

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), this worker's [B, ...] of the global [B * world, ...]."""
        whole = (shape[0] * self.world, *shape[1:])
        return self._mine(torch.randn(whole, generator=self.generator, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1), sliced like `normal`."""
        whole = (shape[0] * self.world, *shape[1:])
        return self._mine(torch.rand(whole, generator=self.generator, device=self.device))

    def integers(self, low: int, high: int, size: int) -> Tensor:
        """Uniform on {low..high-1}, int64, sliced like `normal`."""
        drawn = torch.randint(low, high, (size * self.world,), generator=self.generator, device=self.device)
        return self._mine(drawn)
