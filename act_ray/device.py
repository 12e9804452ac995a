"""The device that a process works on, and its CPU threads."""

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch

from act_ray.config import Config
from act_ray.errors import UserError


def best_device(gpu: bool | None = None) -> torch.device:
    """A GPU, or the CPU when there is none or gpu is False. Raises UserError when gpu is True and there is none."""
    if gpu and not torch.cuda.is_available():
        raise UserError("--gpu: PyTorch finds no GPU on this machine; try --cpu")
    return torch.device("cpu" if gpu is False or not torch.cuda.is_available() else "cuda")


def prepare_process(cfg: Config, workers_here: int) -> None:
    """Threads for one of `workers_here` workers on this machine, and quiet libraries."""
    share = max(1, (os.cpu_count() or 1) // max(1, workers_here))
    torch.set_num_threads(cfg.train.threads or share)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.*")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    # A run that goes on must choose the same kernels, and those that add up in one order.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """As many in every process, workers or none: they decide the order of sums, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
