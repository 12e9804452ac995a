"""What a training is given, each choice with its reason in a line; docs/choosing-settings.md has the measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from act_ray.errors import UserError
from act_ray.init.candidates import Speed
from act_ray.init.look import Look
from act_ray.tune.freeze_thaw import SHARE

SIZES = (8, 12, 16, 24, 28, 32, 48, 64, 96, 128, 192, 256)  # sides that the networks below fit
WIDTHS = (16, 32, 64, 128)  # channels at the finest level
GROWTH = (1, 2, 2, 4, 4, 4)  # times as many at the coarser levels
ENOUGH_STEPS = 3_000  # that the largest network which is chosen can make in the time
LEAST_STEPS = 100
LEAST_IMAGES = 16  # what act-ray evaluate needs
BY_HEART = 100
FEW = f"fewer than {BY_HEART} images: a model will mostly learn them by heart"
SCORES = 12  # during a training
TRAINING = 0.85  # of the time; the rest goes to scores and checkpoints
TRIALS = 12  # of a search
ROOM = 0.6  # of the memory, for one training


@dataclass(frozen=True)
class Choice:
    """A dotted setting, its value, and why."""

    name: str
    value: Any
    why: str


@dataclass(frozen=True)
class Machine:
    """gpu: its name, None on a CPU. memory: bytes, the GPU's where there is one. lpips: its weights are here."""

    gpu: str | None
    cores: int
    memory: int
    lpips: bool


@dataclass(frozen=True)
class Network:
    """What decides the cost of a step."""

    width: int
    batch: int
    threads: int | None


def require_enough(found: Look) -> None:
    """Raises UserError for fewer images than a score needs."""
    if found.whole and (usable := found.seen - len(found.broken)) < LEAST_IMAGES:
        raise UserError(f"{usable} images can be used, and {LEAST_IMAGES} are the least that a model is scored against")


def image_size(found: Look, hours: float, gpu: bool) -> tuple[int, str]:
    """The side that images are brought to, and why."""
    by_hours = ((0.5, 16), (12, 32), (1e9, 64)) if not gpu else ((4, 64), (24, 128), (1e9, 256))
    most = next(side for limit, side in by_hours if hours < limit)
    if found.same and found.sides[1] in SIZES and found.sides[1] <= most:
        return found.sides[1], "as they are"
    side = max((size for size in SIZES if size <= min(most, found.sides[0])), default=SIZES[0])
    if found.sides[0] > most:
        where = "a GPU" if gpu else "a CPU"
        return (
            side,
            f"in {time_text(hours)} on {where} larger ones would take too few steps; --size N decides otherwise",
        )
    return side, "the largest that 19 of 20 images have without being enlarged"


def widths(count: int) -> tuple[int, ...]:
    """Networks that so many images can teach: a discriminator that is too large learns few images by heart."""
    most = 32 if count < 2_000 else 64 if count < 20_000 else 128
    return tuple(width for width in WIDTHS if width <= most)


def network(width: int, size: int) -> dict[str, Any]:
    """The settings of a network whose coarsest level is 4 to 8 pixels wide."""
    levels = 1
    while size % 2**levels == 0 and size / 2 ** (levels - 1) > 8 and levels < len(GROWTH):
        levels += 1
    wide = width >= 64
    attention = [wide and size / 2**level <= 16 for level in range(levels)]
    down = "".join("A" if here else "D" for here in attention)
    return {
        "model.block_out_channels": [width * growth for growth in GROWTH[:levels]],
        "model.down": down,
        "model.up": down[::-1].replace("D", "U"),
        "model.layers_per_block": 2 if wide else 1,
        "model.norm_num_groups": 32 if wide else 8,
        "discriminator.layers_per_block": 3 if wide else 2,
    }


def fits(speed: Speed, hours: float, machine: Machine) -> bool:
    """Whether a network makes enough steps in the time, and leaves room in the memory."""
    return steps_in(hours, speed.seconds) >= ENOUGH_STEPS and speed.memory < ROOM * machine.memory


def steps_in(hours: float, seconds: float) -> int:
    """Steps of a training that takes so many hours with its scores, to two digits."""
    steps = int(TRAINING * hours * 3600 / seconds)
    digits = int(10 ** max(0, len(str(steps)) - 2))
    return steps // digits * digits


def time_text(hours: float) -> str:
    """As people write it: 48 seconds, 18 minutes, 1.5 hours."""
    for seconds, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if hours * 3600 >= 1.5 * seconds:
            return f"{hours * 3600 / seconds:.3g} {unit}"
    return f"{hours * 3600:.3g} seconds"


def rounded_up(hours: float) -> float:
    """To two digits."""
    digit = 10.0 ** (1 - math.floor(math.log10(hours)))
    return math.ceil(hours * digit) / digit


def choices(found: Look, machine: Machine, size: int, net: Network, speed: Speed, hours: float) -> list[Choice]:
    """All that is set, in the order of the file."""
    steps, count = steps_in(hours, speed.seconds), found.seen
    every = max(1, steps // SCORES)
    colour = found.channels == 3
    flip = Choice("data.flip", colour, "mirrored images are as good; false for text, faces of one side, and the like"
                  if colour else "digits and letters are other ones in a mirror")  # fmt: skip
    lpips = machine.lpips and machine.gpu is not None and colour and size >= 32
    taught = f"{speed.seconds:.2g} s a step here; more channels for more hours, or more images than {count:,}"
    why = {
        "model.block_out_channels": taught,
        "model.down": "D plain, A with attention; the coarsest level is 4 to 8 pixels wide",
    }
    return [
        flip,
        *schedule(steps),
        Choice("loss.w", 0.9, "of the adversary's weight at the largest noise level; measured best on small budgets"),
        Choice("loss.w_mid", 0.7, "and half-way"),
        Choice("loss.distance", "lpips" if lpips else "pseudo_huber",
               "its weights are here" if lpips else "needs no weights, and costs next to nothing"),
        Choice("loss.gp_weight", 0.3, "w_gp ||grad D||^2 then settles near .5; look at L_gp, and search it"),
        Choice("loss.gp_interval", 16, "a penalty costs as much as two steps of D"),
        Choice("augment.enabled", False, augmenting(count)),
        Choice("augment.tau", "auto", "if it is switched on: from what L_gp settles at"),
        *(Choice(name, value, why.get(name, "")) for name, value in network(net.width, size).items()),
        *conditional(found),
        *rates(net.width),
        Choice("train.total_steps", steps, f"what {time_text(hours)} allow, {1 - TRAINING:.0%} of them for scores"),
        Choice("train.global_batch", net.batch, batch_reason(machine, speed)),
        Choice("train.ema_decay", ema_decay(steps), "averages over some hundredths of the training"),
        Choice("train.threads", net.threads, "faster than all cores, which wait for each other"
               if net.threads else "all cores"),
        Choice("eval.every", every, f"{SCORES} scores"),
        Choice("eval.samples", 2_000 if machine.gpu is None else 10_000, "`act-ray evaluate` takes more"),
        Choice("eval.features", "auto", "FID's network where its weights are, else one that learns from these images"),
        Choice("checkpoint.every", every, "with each score"),
    ]  # fmt: skip


def schedule(steps: int) -> list[Choice]:
    """How many noise levels the training ends with."""
    s1 = 10 if steps < 3_000 else 20 if steps < 15_000 else 50 if steps < 60_000 else 150
    return [Choice("schedule.s1", s1, "noise levels at the end: 10 for a thousand steps, the paper's 150 for 300,000")]


def augmenting(count: int) -> str:
    """Why the discriminator's images are not augmented, or when they should be."""
    few = "there are few images: let the search try it" if count < 2_000 else "there are enough images"
    return f"it makes learning slower, and helps where D learns the images by heart; {few}"


def conditional(found: Look) -> list[Choice]:
    """Whether the model is told the class."""
    enough = len(found.labels) > 1 and min(found.labels) >= 10
    if enough:
        return [Choice("model.num_classes", len(found.labels), "it is told the class, and makes any you ask for")]
    why = "a class has fewer than 10 images" if len(found.labels) > 1 else "there are no classes"
    return [Choice("model.num_classes", None, why)]


def rates(width: int) -> list[Choice]:
    """The learning rates."""
    rate = {16: 1e-3, 32: 1e-3, 64: 5e-4}.get(width, 2e-4)
    return [Choice("optim.lr_g", rate, "1e-3 for small networks, 1e-4 for the paper's"),
            Choice("optim.lr_d", rate, "as the generator's")]  # fmt: skip


def batch_reason(machine: Machine, speed: Speed) -> str:
    """Why the batch is what it is."""
    if machine.gpu is None:
        return f"more steps rather than larger ones; it takes {speed.memory / 1e9:.1f} GB"
    return f"takes {speed.memory / 1e9:.1f} of {machine.memory / 1e9:.0f} GB of the GPU"


def ema_decay(steps: int) -> float:
    """Of the slow average."""
    return 0.99 if steps < 2_000 else 0.998 if steps < 10_000 else 0.9995 if steps < 100_000 else 0.9999


def search_space(chosen: Sequence[Choice], found: Look, speed: Speed, parallel: int, hours: float) -> dict[str, Any]:
    """A search over what matters most, around the choices, that takes the same time on this machine."""
    values = {choice.name: choice.value for choice in chosen}
    affordable = TRAINING * hours * 3600 * parallel / speed.seconds / SHARE  # steps of all trials
    trials = max(4, min(TRIALS, int(affordable / (3 * LEAST_STEPS))))
    steps = max(LEAST_STEPS, min(values["train.total_steps"], int(affordable / trials)))
    rate = values["optim.lr_g"]
    searched: dict[str, Any] = {
        "loss.w": {"choice": [0.7, 0.9]},
        "loss.w_mid": {"choice": [0.3, 0.5, 0.7]},
        "loss.gp_weight": {"loguniform": [0.05, 2.0]},
        "loss.gp_interval": {"choice": [4, 16]},
        "optim.lr_g": {"loguniform": [rate / 2, rate * 2]},
        "optim.lr_d": {"loguniform": [rate / 2, rate * 4]},
    }
    if found.seen < 2_000 and not steps < 400:
        searched["augment.enabled"] = {"choice": [False, True]}
    every = max(1, steps // 20)
    fixed = {name: value for name, value in values.items() if name not in searched} | {
        "train.total_steps": steps, "eval.every": every, "eval.samples": 1_000, "eval.weights": ["ema"],
        "checkpoint.every": every, "schedule.s1": schedule(steps)[0].value, "train.ema_decay": ema_decay(steps),
    }  # fmt: skip
    return {
        "about": "weights, penalty and learning rates", "trials": trials, "search": "random",
        "scheduler": "freeze-thaw", "budget": f"{SHARE:.0%}", "set": fixed, "parameters": searched,
        "constraints": ["loss.w_mid <= loss.w"],
    }  # fmt: skip
