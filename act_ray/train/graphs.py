"""A step's two halves as CUDA graphs: what they launch is recorded once, and replayed.

A step of the paper's networks launches some 7,900 kernels, most of them far shorter than the launch itself, so that
the GPU waits for Python three quarters of the time. A replayed graph is one launch. It does what was recorded, with the
same numbers baked in: only the contents of tensors can change. So

- images, labels and random draws are copied to where the graph reads them; draws are made outside, as always, so that
  their bits do not depend on this;
- p_aug and a steered w_gp are updated in place (core/augment.py, core/steer.py);
- N(k) is a number: with each new N all is launched once more and recorded again, in the time of two steps. Steps with
  the penalty, and those that measure ||grad D||^2, are recordings of their own;
- updates and averages of the weights stay outside: they are few launches, with rates that change at every step.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from act_ray.core.noise import Noise
from act_ray.core.step import Metrics, Objective, Part, backward
from act_ray.train.ranks import Ranks

Drawn = tuple[tuple[str, ...], str, tuple[int, ...], Tensor]  # branch, what was asked for, and memory for it


class Graphs:
    """TrainState.backward for a GPU: as `backward`, with the mean over workers that a data-parallel wrapper would take.

    What cannot be recorded is launched as ever, and `warn` says so.
    """

    def __init__(self, ranks: Ranks, warn: Callable[[str], None]) -> None:
        self.ranks, self.warn = ranks, warn
        self.N: object = None
        self.launched = dict[Hashable, list[Draws]]()  # with this N: kernels are chosen, and this was drawn
        self.recorded = dict[Hashable, Recording]()  # with this N
        self.refused = set[Hashable]()
        self.pool: Any = None

    def __call__(
        self, objective: Callable[..., Objective], parts: Sequence[Part], module: nn.Module, scaler: GradScaler | None
    ) -> list[Metrics]:
        """Gradients in `module`'s weights, and the metrics of each micro-batch."""
        assert isinstance(objective, partial)
        what = {name: value for name, value in objective.keywords.items() if name != "cfg"}
        N, kind = what.pop("N", None), (objective.func.__name__, *what.values())
        if N != self.N:
            self.N, self.launched = N, {}
            self.recorded.clear()
        if kind in self.launched and kind not in self.recorded and kind not in self.refused:
            self._record(kind, objective, parts, module, scaler)
        if kind in self.recorded:
            rows = self.recorded[kind].replay(parts)
        elif kind in self.refused:
            rows = backward(objective, parts, module, scaler)
        else:
            draws = self.launched[kind] = [Draws(noise) for _, _, noise in parts]
            heard = [(x, labels, drawn) for (x, labels, _), drawn in zip(parts, draws, strict=True)]
            rows = backward(objective, heard, module, scaler)
        self.ranks.average([weight.grad for weight in module.parameters() if weight.grad is not None])
        return rows

    def _record(
        self,
        kind: tuple[Any, ...],
        objective: Callable[..., Objective],
        parts: Sequence[Part],
        module: nn.Module,
        scaler: GradScaler | None,
    ) -> None:
        if not self.recorded:  # with the last graph its pool is gone
            self.pool = torch.cuda.graph_pool_handle()
        try:
            self.recorded[kind] = Recording.make(objective, parts, self.launched[kind], module, scaler, self.pool)
        except RuntimeError as error:  # an operation that waits for the GPU, for one, or too little memory
            self.refused.add(kind)
            said = " ".join(str(error).split())[:160]
            self.warn(
                f"train.cuda_graphs: {kind[0]} is launched operation by operation: it cannot be recorded ({said})"
            )


def capture(run: Callable[[], list[Metrics]], pool: Any) -> tuple[Callable[[], object], list[Metrics]]:
    """Record what `run` launches: what launches it again, and where its results will be; nothing is computed yet."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what was launched before leaves as much behind, and the graph has memory of its own
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # a checkpoint may be being written
        rows = run()
    return graph.replay, rows


@dataclass
class Recording:
    """A graph to launch, what it reads, and what it leaves."""

    again: Callable[[], object]
    inputs: list[tuple[Tensor, Tensor | None]]  # of each micro-batch
    draws: list["Draws"]
    rows: list[Metrics]
    gradients: list[tuple[nn.Parameter, Tensor]]

    @classmethod
    def make(
        cls,
        objective: Callable[..., Objective],
        parts: Sequence[Part],
        draws: list["Draws"],
        module: nn.Module,
        scaler: GradScaler | None,
        pool: Any,
    ) -> "Recording":
        """Record; nothing is computed yet. Raises RuntimeError where something cannot be."""
        inputs = [(x.clone(), None if labels is None else labels.clone()) for x, labels, _ in parts]
        module.zero_grad(set_to_none=True)

        def run() -> list[Metrics]:
            given = [(x, labels, drawn.given()) for (x, labels), drawn in zip(inputs, draws, strict=True)]
            return backward(objective, given, module, scaler)

        again, rows = capture(run, pool)
        gradients = [(p, p.grad) for p in module.parameters() if p.grad is not None]
        return cls(again, inputs, draws, rows, gradients)

    def replay(self, parts: Sequence[Part]) -> list[Metrics]:
        """The gradients and metrics of these images and draws."""
        for (x, labels, noise), (to_x, to_labels), draws in zip(parts, self.inputs, self.draws, strict=True):
            to_x.copy_(x)
            if labels is not None and to_labels is not None:
                to_labels.copy_(labels)
            draws.fill(noise)
        self.again()
        for weight, gradient in self.gradients:
            weight.grad = gradient
        return [{name: value.clone() for name, value in row.items()} for row in self.rows]


class Draws(Noise):
    """Hears what is drawn from a Noise while operations are launched; later gives out memory for it, and fills that.

    The memory must be there before a graph is recorded: what is allocated in it may be what the graph, before it comes
    to the draw, writes other things to.
    """

    def __init__(self, noise: Noise, path: tuple[str, ...] = (), heard: "list[Drawn] | None" = None) -> None:
        self.noise, self.path, self.heard = noise, path, [] if heard is None else heard

    def branch(self, name: str) -> "Draws":
        """Draws of a branch, heard with these."""
        return Draws(self.noise.branch(name), (*self.path, name), self.heard)

    def normal(self, *shape: int) -> Tensor:
        """As Noise's."""
        return self._hear("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        """As Noise's."""
        return self._hear("uniform", shape)

    def integers(self, low: int, high: int, size: int) -> Tensor:
        """As Noise's."""
        return self._hear("integers", (low, high, size))

    def _hear(self, kind: str, arguments: tuple[int, ...]) -> Tensor:
        drawn: Tensor = getattr(self.noise, kind)(*arguments)
        self.heard.append((self.path, kind, arguments, drawn.clone()))
        return drawn

    def given(self) -> "Given":
        """What gives out the memory, in the order in which it was heard."""
        return Given(memory for *_, memory in self.heard)

    def fill(self, noise: Noise) -> None:
        """The memory with what `noise` draws when it is asked for the same in the same order."""
        nodes: dict[tuple[str, ...], Noise] = {(): noise}
        for path, kind, arguments, memory in self.heard:
            for depth in range(1, len(path) + 1):
                if path[:depth] not in nodes:
                    nodes[path[:depth]] = nodes[path[: depth - 1]].branch(path[depth - 1])
            memory.copy_(getattr(nodes[path], kind)(*arguments))


class Given(Noise):
    """Stands for a Noise while a graph is recorded."""

    def __init__(self, memory: Iterator[Tensor]) -> None:
        self.memory = memory

    def branch(self, name: str) -> "Given":
        """The same memory: it lies in the order of the draws, whatever their branch."""
        return self

    def normal(self, *shape: int) -> Tensor:
        """Memory for them."""
        return next(self.memory)

    def uniform(self, *shape: int) -> Tensor:
        """Memory for them."""
        return next(self.memory)

    def integers(self, low: int, high: int, size: int) -> Tensor:
        """Memory for them."""
        return next(self.memory)
