"""Networks small enough to differentiate by hand, and a training state around them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from act_ray import settings
from act_ray.config import Config
from act_ray.core import losses
from act_ray.core.augment import Controller
from act_ray.core.consistency import Consistency
from act_ray.core.step import TrainState
from act_ray.train.setup import scaler


class ToyF(nn.Module):
    """F(x, t', labels): two convolutions that know t and the class."""

    def __init__(self, channels: int = 1, classes: int | None = None) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, channels, 3, padding=1)
        self.time = nn.Linear(1, 6)
        self.classes = nn.Embedding(classes, 6) if classes else None

    def hidden(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        bias = self.time(t[:, None] / 1000)
        if self.classes is not None:
            bias = bias + self.classes(labels)
        return torch.tanh(self.conv_in(x) + bias[:, :, None, None])

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        out: Tensor = self.conv_out(self.hidden(x, t, labels))
        return out


class ToyD(ToyF):
    """Logit of D(x, t', labels)."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.conv_out(self.hidden(x, t, labels)).flatten(1).sum(1).float()


def load(**dotted: Any) -> Config:
    """The digits preset with `loss__w=0.3` for loss.w."""
    return settings.load("digits", {name.replace("__", "."): value for name, value in dotted.items()})


def toy_state(cfg: Config, channels: int = 1, lr: float = 0.05) -> TrainState:
    """SGD, so that a step's gradient can be read off the parameters."""
    torch.manual_seed(1)
    classes = cfg.model.num_classes
    model = Consistency(ToyF(channels, classes), cfg.schedule, cfg.train.precision)
    discriminator = ToyD(channels, classes)
    teacher, ema = (copy.deepcopy(model).requires_grad_(False) for _ in range(2))
    return TrainState(
        model=model,
        teacher=teacher,
        ema=ema,
        discriminator=discriminator,
        optimizer_g=torch.optim.SGD(model.parameters(), lr),
        optimizer_d=torch.optim.SGD(discriminator.parameters(), lr),
        distance=losses.pseudo_huber,
        controller=Controller.start(cfg.step.augment, torch.device("cpu")),
        scaler_g=scaler(cfg, torch.device("cpu")),
        scaler_d=scaler(cfg, torch.device("cpu")),
    )
