"""StyleGAN2's discriminator (Table 4) in plain torch operations: it can be differentiated twice."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act_ray.config import Config, nearest_divisor
from act_ray.errors import UserError
from act_ray.models.diffusers_parts import TimestepEmbedding, Timesteps

SIZES = (8, 16, 32, 64, 128, 256)


def build(cfg: Config, channels: int, size: int) -> nn.Module:
    """The network for `channels` x `size` x `size` images. Raises UserError for another side than one of SIZES."""
    d = cfg.discriminator
    return StyleGan2Discriminator(
        channels,
        size,
        d.channel_base,
        d.channel_max,
        d.time_embedding,
        cfg.model.num_classes,
        group_size(cfg.train.global_batch),
    )


def check(cfg: Config, channels: int, size: int, world: int) -> None:
    """Raises UserError for another side than one of SIZES, and where workers or micro-batches do not hold whole groups.

    Its deviation is of neighbours in a batch: as many of them on every count of workers, and of micro-batches.
    """
    _check_size(size)
    batch, micro = cfg.train.global_batch, cfg.train.micro_batch
    step = 2 * group_size(batch)
    if micro is not None and micro % step and batch % (step * world) == 0:
        near = nearest_divisor(batch // world, micro, step)
        raise UserError(
            f"train.micro_batch = {micro}: discriminator.kind = 'stylegan2' looks at groups of {step // 2} fakes or "
            f"reals, which stay whole in a multiple of {step}; nearest: {near}"
        )
    step *= world
    if batch % step:
        near = max(step, round(batch / step) * step)
        raise UserError(
            f"train.global_batch = {batch}: discriminator.kind = 'stylegan2' needs a multiple of {step} with {world} "
            f"workers; nearest: {near}"
        )


def require_files(cfg: Config) -> None:
    """It needs none."""


def _check_size(size: int) -> None:
    if size not in SIZES:
        near = min(SIZES, key=lambda side: abs(side - size))
        raise UserError(
            f"StyleGAN2's discriminator: {size}x{size} images; the side must be a power of two from {SIZES[0]} to "
            f"{SIZES[-1]}; nearest: {near}"
        )


class StyleGan2Discriminator(nn.Module):
    """Logit of D(x, t', labels); [B,C,H,W], [B], [B] -> [B] (StyleGAN2-ADA's "resnet" discriminator).

    min(channel_base // side, channel_max) channels at each side. t and the class enter by projection on the last
    features. `group` neighbours share a deviation. Raises UserError when `size` is not a power of two in 8..256.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        channel_base: int,
        channel_max: int,
        time_embedding: bool,
        num_classes: int | None,
        group: int,
    ) -> None:
        super().__init__()
        _check_size(size)
        self.group = group
        sides = [size >> i for i in range(size.bit_length() - 2)]  # size, ..., 8, 4
        widths = [min(channel_base // side, channel_max) for side in sides]
        last = widths[-1]
        self.from_rgb = EqualConv2d(channels, widths[0], 1, math.sqrt(2))
        self.blocks = nn.ModuleList(Block(a, b) for a, b in itertools.pairwise(widths))
        self.conv = EqualConv2d(last + 1, last, 3, math.sqrt(2), padding=1)  # + 1: the minibatch's deviation
        self.dense = EqualLinear(last * 4 * 4, last, math.sqrt(2))
        conditional = time_embedding or num_classes is not None
        self.out = EqualLinear(last, last if conditional else 1)
        width = max(64, last)
        self.embedding = Conditioning(width, time_embedding, num_classes) if conditional else None
        self.map = EqualLinear(width, last) if conditional else None

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        h = leaky(self.from_rgb(x))
        for block in self.blocks:
            h = block(h)
        with torch.autocast(x.device.type, enabled=False):  # as in StyleGAN2: logits are small differences
            h = leaky(self.conv(with_deviation(full(h), self.group)))
            out: Tensor = self.out(leaky(self.dense(h.flatten(1))))
            if self.embedding is None or self.map is None:
                return out.squeeze(1)
            return project(out, self.map(self.embedding(t, labels)))


class Block(nn.Module):
    """[B,a,H,W] -> [B,b,H/2,W/2]: two 3x3 convolutions beside a 1x1 skip; their sum over sqrt(2)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.blur = Blur()
        self.conv0 = EqualConv2d(a, a, 3, math.sqrt(2), padding=1)
        self.conv1 = EqualConv2d(a, b, 3, 1.0, stride=2)  # sqrt(2) of the LeakyReLU, over sqrt(2) of the sum
        self.skip = EqualConv2d(a, b, 1, 1 / math.sqrt(2), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = leaky(self.conv0(x))
        h = leaky(self.conv1(self.blur(h, padding=2)))
        out: Tensor = h + self.skip(self.blur(x, padding=1, stride=2))
        return out


# ---------------------------------------------------------------------------------------------- layers


class EqualConv2d(nn.Conv2d):
    """A convolution with N(0, 1) weights, times gain / sqrt(fan-in) when used (equalised learning rate).

    The gain of an activation belongs here: LeakyReLU(g z) = g LeakyReLU(z), and weights are smaller than images.
    """

    def __init__(
        self, a: int, b: int, kernel: int, gain: float, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(a, b, kernel, stride, padding, bias=bias)
        self.gain = gain

    def reset_parameters(self) -> None:
        _standard_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        weight = self.weight * (self.gain / math.sqrt(self.weight[0].numel()))
        out: Tensor = self._conv_forward(x, weight, bias)
        return out


class EqualLinear(nn.Linear):
    """A dense layer with equalised learning rate, as `EqualConv2d`."""

    def __init__(self, a: int, b: int, gain: float = 1.0) -> None:
        super().__init__(a, b)
        self.gain = gain

    def reset_parameters(self) -> None:
        _standard_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.gain / math.sqrt(self.in_features)), self.bias * self.gain)


def _standard_normal(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Blur(nn.Module):
    """The low-pass filter [1,3,3,1] x [1,3,3,1] / 64 on each channel, before every other pixel is dropped."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", (line[:, None] * line / 64)[None, None], persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor, padding: int, stride: int = 1) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, -1, -1, -1), None, stride, padding, groups=channels)


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU in place: the convolution before it needs its inputs for a backward pass, not its output."""
    return F.leaky_relu(x, 0.2, inplace=True)


def group_size(batch: int) -> int:
    """How many neighbours share a deviation: at most 4, and a divisor of half the batch, or of an odd batch.

    D sees cat([fakes, reals]), half and half: a divisor of the half never puts both into one group.
    """
    half = batch // 2 if batch % 2 == 0 else batch
    return next(size for size in (4, 3, 2, 1) if half % size == 0)


def with_deviation(x: Tensor, group: int) -> Tensor:
    """Append a channel: the deviation within `group` neighbouring samples, averaged; [B,C,H,W] -> [B,C+1,H,W].

    A batch that is not of whole groups, which training never has, is cut as `group_size` says.

    StyleGAN2 groups samples that are B/4 apart: in cat([fakes, reals]) that would put both into every group, and D
    could not see that the fakes alone lack diversity.
    """
    batch, size = len(x), group if len(x) % group == 0 else group_size(len(x))
    groups = x.reshape(batch // size, size, *x.shape[1:])
    deviation = (groups.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    channel = deviation[:, None].expand(-1, size).reshape(batch, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], 1)


# ---------------------------------------------------------------------------------------------- t and the class


class Conditioning(nn.Module):
    """What D is told besides the image, t' [B] and labels [B] or one of them, as [B,width] of unit second moment."""

    def __init__(self, width: int, time_embedding: bool, num_classes: int | None) -> None:
        super().__init__()
        self.time_proj = Timesteps(width // 4, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width // 4, width) if time_embedding else None
        self.class_embedding = nn.Embedding(num_classes, width) if num_classes is not None else None

    def forward(self, t: Tensor, labels: Tensor | None) -> Tensor:
        parts = []
        if self.time_embedding is not None:
            waves = self.time_proj(t).to(self.time_embedding.linear_1.weight.dtype)
            parts.append(unit(self.time_embedding(waves)))
        if self.class_embedding is not None:
            parts.append(unit(self.class_embedding(labels)))
        return torch.stack(parts).sum(0) / math.sqrt(len(parts))


def unit(x: Tensor) -> Tensor:
    """Scale each row to a mean square of one; else the class, which starts far larger, would drown t."""
    x = full(x)
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def project(features: Tensor, mapped: Tensor) -> Tensor:
    """<features, map(embedding)> / sqrt(dim); [B,dim], [B,dim] -> [B] (StyleGAN2-ADA's cmap)."""
    return (features * mapped).sum(1) / math.sqrt(features.shape[1])


def full(x: Tensor) -> Tensor:
    """float32 where autocast left bf16; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
