"""How the small networks behind a score are trained: with a bar, kept part of the way, not longer than it pays."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from act_ray.files import replace_atomically
from act_ray.progress_bar import ProgressBar
from act_ray.written import seal, sealed

KEPT_EVERY = 100  # steps between two states on the disk
LEARNT = 0.01  # mean loss of so many steps, in nats, under which there is nothing left to learn

Net = TypeVar("Net", bound=nn.Module)
Loss = Callable[[np.random.Generator], Tensor]
Say = Callable[[str], None]


def learn(net: nn.Module, loss: Loss, steps: int, what: str, say: Say, partial: Path | None = None) -> None:
    """`steps` steps of Adam at 1e-3 on `loss`, in place; it is given each step's own random numbers.

    partial: a file for the state so far, from which an interrupted call goes on; the same weights come out.
    """
    optimizer = Adam(net.parameters(), lr=1e-3)
    done = 0 if partial is None else _resume(partial, net, optimizer)
    last = deque[float](maxlen=KEPT_EVERY)
    with ProgressBar(what, steps, "steps", say, done) as progress:
        for step in range(done, steps):
            value = loss(np.random.default_rng((0, step)))
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress.advance(1)
            last.append(value.item())
            if (step + 1) % KEPT_EVERY:
                continue
            if sum(last) / KEPT_EVERY < LEARNT:
                break
            if partial is not None:
                _keep(partial, net, optimizer, step + 1)
    net.eval()


def _keep(path: Path, net: nn.Module, optimizer: Optimizer, step: int) -> None:
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}  # channels_last is no order of a file
    replace_atomically(path, lambda temporary: save_file(tensors, temporary, {"step": str(step)}))
    seal(path)


def _resume(path: Path, net: nn.Module, optimizer: Optimizer) -> int:
    """Load what _keep wrote; the steps that it had taken, 0 without it, or where it is damaged."""
    if not sealed(path):
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    net.load_state_dict({name: tensors[f"net.{name}"] for name in net.state_dict()})
    saved = optimizer.state_dict()
    saved["state"] = {
        i: {name: tensors[f"adam.{i}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
        for i in range(len(saved["param_groups"][0]["params"]))
    }
    optimizer.load_state_dict(saved)
    return step


def seeded(make: Callable[[], Net]) -> Net:
    """A network with the same first weights each time; the process's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()
