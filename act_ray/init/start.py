"""From a data set to a folder with all that a training and a search need."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from act_ray import jsonfile, settings
from act_ray.config import Config
from act_ray.data import store
from act_ray.data.formats import ANY_LABELS
from act_ray.data.records import LabelChoice
from act_ray.doctor.machine import available_memory
from act_ray.errors import UserError
from act_ray.files import replace_atomically
from act_ray.init import choose
from act_ray.init.candidates import Speed, measure_all
from act_ray.init.choose import Choice, Machine, Network
from act_ray.init.look import Look, described, look, recognise
from act_ray.init.writing import config_text, space_text
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.tune.space_files import parse_space
from act_ray.weight_files import LPIPS, VGG16

BASE = "small"  # the preset that the rest comes from
BROKEN = 0.5  # share of images that may be quarantined: it is said how many are
DONE = "init.json"
BATCH = 32
GPU_BATCHES = (128, 64, 32)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ask:
    """What the user may decide; None leaves it to what is found."""

    size: int | None = None
    grey: bool = False
    split: str | None = None
    labels: LabelChoice = ANY_LABELS
    gpu: bool | None = None


NOTHING = Ask()


@dataclass(frozen=True)
class Start:
    """What init has made. seconds_per_step, total_steps: of config.yaml's training on this machine."""

    folder: Path
    config: Path
    space: Path
    data: str
    seconds_per_step: float
    total_steps: int


@dataclass(frozen=True)
class Done:
    """init.json."""

    asked: dict[str, Any]
    seconds_per_step: float
    total_steps: int


class TooFewHours(UserError):
    """This machine makes too few steps in the time given."""


def start(src: str, out: Path, hours: float, say: Say = lambda line: None, ask: Ask = NOTHING) -> Start:
    """Look, prepare, measure, choose, and write; the same call again finds what is done. Raises UserError."""
    out = out.expanduser().absolute()
    asked = {"source": os.path.abspath(src), "hours": hours, **asdict(ask)}
    if (before := _before(out, asked)) is not None:
        say(f"{out}: is there already")
        return before
    source, split, labels, decided = recognise(src, ask.split, ask.labels)
    if decided is not None:
        say(decided)
    found = look(source, ask.grey, say)
    for line in described(found):
        say(line)
    machine = this_machine(ask.gpu)
    size, why = (ask.size, "as asked") if ask.size else choose.image_size(found, hours, machine.gpu is not None)
    say(f"prepared as {size}x{size}: {why}")
    data = _prepare(src, out / "data", found, PrepareOptions(
        size, found.channels, None, None, split, labels.name, labels.wanted and len(found.labels) > 0
    ), say)  # fmt: skip
    found = replace(found, seen=data["count"])
    net, speed = measured(found, machine, size, str(out / "data"), hours, say)
    steps = choose.steps_in(hours, speed.seconds)
    if steps < choose.LEAST_STEPS:
        least = choose.LEAST_STEPS * speed.seconds / 3600 / choose.TRAINING
        raise TooFewHours(f"--hours {hours:g}: {steps} steps of this machine; give {least:.2g} at least")
    chosen = [Choice("data.path", str(out / "data"), f"{found.seen:,} images, {size}x{size}: {why}"),
              *choose.choices(found, machine, size, net, speed, hours)]  # fmt: skip
    _check(chosen)
    return _write(out, asked, chosen, found, machine, net, speed, hours)


def _before(out: Path, asked: dict[str, Any]) -> Start | None:
    """What a call with the same question has made. Raises UserError where it was another question."""
    if not (out / DONE).exists():
        return None
    try:
        done = jsonfile.read(out / DONE, Done)
    except (OSError, ValueError) as error:
        raise UserError(f"{out / DONE}: damaged: {error}; choose a new folder") from None
    other = [name for name, value in json.loads(json.dumps(asked)).items() if done.asked.get(name) != value]
    if other:
        raise UserError(f"--out {out}: holds what was made with another {other[0]}; choose a new folder")
    return _start(out, done)


def _start(out: Path, done: Done) -> Start:
    return Start(
        out, out / "config.yaml", out / "space.yaml", str(out / "data"), done.seconds_per_step, done.total_steps
    )


def this_machine(gpu: bool | None) -> Machine:
    """What trainings have here. Raises UserError where a GPU is asked for and there is none."""
    from act_ray.device import best_device

    lpips = all(weights.path.exists() for weights in (LPIPS, VGG16))
    if best_device(gpu).type == "cpu":
        return Machine(None, os.cpu_count() or 1, available_memory(), lpips)
    properties = torch.cuda.get_device_properties(0)
    return Machine(properties.name, os.cpu_count() or 1, properties.total_memory, lpips)


def _prepare(src: str, dst: Path, found: Look, options: PrepareOptions, say: Say) -> dict[str, Any]:
    """The manifest of the prepared data; its quarantined images are said."""
    manifest = prepare(src, dst, options, BROKEN, say)
    if bad := len(manifest["quarantined"]) - len(found.broken):
        say(f"{bad} more could not be used: {dst / store.MANIFEST} lists all that were left out")
    return manifest


# ---------------------------------------------------------------------------------------------- measuring


def measured(looked: Look, machine: Machine, size: int, data: str, hours: float, say: Say) -> tuple[Network, Speed]:
    """The network that is chosen, and what a step of it takes."""
    cpu = machine.gpu is None
    candidates = [Network(width, BATCH, 1 if cpu else None) for width in choose.widths(looked.seen)]

    def measure(networks: Sequence[Network], last: Callable[[Speed], bool]) -> list[Speed]:
        configs = [trial_config(net, size, looked, data) for net in networks]
        return measure_all(configs, None if not cpu else False, say, last)

    speeds = measure(candidates, lambda speed: not choose.fits(speed, hours, machine))
    if not speeds:
        raise UserError(f"a training step with {size}x{size} images needs more memory than there is; try --size")
    at = max((i for i, speed in enumerate(speeds) if choose.fits(speed, hours, machine)), default=0)
    net, speed = candidates[at], speeds[at]
    if cpu and machine.cores > 1:
        every = replace(net, threads=None)
        for other in measure([every], lambda _: True):
            if other.seconds * min(machine.cores, 4) / 2 < speed.seconds:  # else trials side by side do more
                net, speed = every, other
    elif not cpu:
        for batch in GPU_BATCHES:  # the largest that leaves enough steps
            bigger = replace(net, batch=batch)
            if found := [other for other in measure([bigger], lambda _: True) if choose.fits(other, hours, machine)]:
                return bigger, found[0]
    return net, speed


def trial_config(net: Network, size: int, found: Look, data: str) -> Config:
    """Settings with all that decides what a step costs."""
    dotted = choose.network(net.width, size) | {choice.name: choice.value for choice in choose.conditional(found)}
    cost = {"data.path": data, "train.global_batch": net.batch, "train.threads": net.threads, "train.total_steps": 1000}
    return settings.load(BASE, {**dotted, **cost})


# ---------------------------------------------------------------------------------------------- writing


def _check(chosen: Sequence[Choice]) -> None:
    """That the settings go together; our bug where they do not."""
    settings.load(BASE, {choice.name: choice.value for choice in chosen})


def _write(
    out: Path, asked: dict[str, Any], chosen: list[Choice], found: Look, machine: Machine, net: Network, speed: Speed,
    hours: float,
) -> Start:  # fmt: skip
    parallel = machine.cores if machine.gpu is None and net.threads == 1 else 1
    space = choose.search_space(chosen, found, speed, parallel, hours)
    parse_space({"preset": BASE, **space}, "space.yaml")  # our bug where it is none
    texts = {"config.yaml": config_text(BASE, chosen, described(found)), "space.yaml": space_text(BASE, space, hours)}
    for name, text in texts.items():
        replace_atomically(out / name, partial(Path.write_text, data=text))
    total = next(choice.value for choice in chosen if choice.name == "train.total_steps")
    done = Done(json.loads(json.dumps(asked)), speed.seconds, total)
    jsonfile.write(out / DONE, asdict(done))
    return _start(out, done)
