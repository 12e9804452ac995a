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
from act_ray.data.shards import ImageData, label_counts, open_data
from act_ray.doctor.machine import available_memory
from act_ray.errors import UserError
from act_ray.files import replace_atomically
from act_ray.init import choose
from act_ray.init.candidates import Measured, Speed
from act_ray.init.choose import Choice, Machine, Network
from act_ray.init.look import Look, described, look, recognise
from act_ray.init.writing import config_text, space_text
from act_ray.prepare.conversion import PrepareOptions, fingerprint, prepare, refuse_inside
from act_ray.tune.space_files import parse_space
from act_ray.weight_files import LPIPS_FILES

BASE = "small"  # the preset that the rest comes from
BROKEN = 0.5  # share of images that may be quarantined: it is said how many are
DONE = "init.json"
SPEEDS = ".speeds.json"  # beside the prepared data, until all is done
OURS = ("data", "auto.json")  # that may be there before it
BATCH = 32
GPU_BATCHES = (128, 64, 32)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ask:
    """What the user may decide; None leaves it to what is found. search: it is space.yaml that is wanted, by auto."""

    size: int | None = None
    grey: bool = False
    split: str | None = None
    labels: LabelChoice = ANY_LABELS
    gpu: bool | None = None
    search: bool = False


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
    """init.json. said: what was found and decided, for a call that finds it done."""

    asked: dict[str, Any]
    seconds_per_step: float
    total_steps: int
    said: tuple[str, ...] = ()


class TooFewHours(UserError):
    """This machine makes too few steps in the time given, of images of the `size` that they are prepared in."""

    def __init__(self, hours: float, steps: int, least: float, size: int) -> None:
        more = choose.rounded_up(least)
        super().__init__(f"--hours {hours:g}: {steps} steps of this machine; give {more:g} at least")
        self.size = size


def start(src: str, out: Path, hours: float, say: Say = lambda line: None, ask: Ask = NOTHING) -> Start:
    """Look, prepare, measure, choose, and write; the same call again finds what is done. Raises UserError."""
    out = out.expanduser().absolute()
    asked = {"source": os.path.abspath(src), "hours": hours, **asdict(ask), "files": fingerprint(Path(src))}
    if (before := _before(out, asked, say)) is not None:
        return before
    require_free(out)
    said = list[str]()

    def tell(line: str) -> None:
        said.append(line)
        say(line)

    source, split, labels, decided = recognise(src, ask.split, ask.labels)
    if decided is not None:
        tell(decided)
    found = look(source, ask.grey, say)
    for line in described(found):
        tell(line)
    choose.require_enough(found)
    if found.seen - len(found.broken) < choose.BY_HEART:
        tell(choose.FEW)
    machine = this_machine(ask.gpu)
    size, why = (ask.size, "as asked") if ask.size else choose.image_size(found, hours, machine.gpu is not None)
    tell(f"prepared as {size}x{size}: {why}")
    data = _prepare(src, out / "data", PrepareOptions(
        size, found.channels, None, None, split, labels.name, labels.wanted and len(found.labels) > 0
    ), say, tell)  # fmt: skip
    found = replace(found, seen=len(data.images), whole=True, labels=tuple(label_counts(data) or ()))
    net, speed = measured(found, machine, size, str(out / "data"), hours, say, ask.search)
    steps = choose.steps_in(hours, speed.seconds)
    if steps < choose.LEAST_STEPS:
        least = choose.LEAST_STEPS * speed.seconds / 3600 / choose.TRAINING
        raise TooFewHours(hours, steps, least, size)
    chosen = [Choice("data.path", str(out / "data"), f"{found.seen:,} images, {size}x{size}: {why}"),
              *choose.choices(found, machine, size, net, speed, hours)]  # fmt: skip
    _check(chosen)
    return _write(out, asked, said, chosen, found, machine, net, speed, hours)


def _before(out: Path, asked: dict[str, Any], say: Say) -> Start | None:
    """What a call with the same question has made; it is said again. Raises UserError where it was another question."""
    if not (out / DONE).exists():
        return None
    try:
        done = jsonfile.read(out / DONE, Done)
    except (OSError, ValueError) as error:
        raise UserError(f"{out / DONE}: cannot be read: {error}; choose another --out") from None
    other = [name for name, value in json.loads(json.dumps(asked)).items() if done.asked.get(name) != value]
    if other:
        what = "other files in the source" if other[0] == "files" else f"another {other[0]}"
        raise UserError(f"--out {out}: holds what was made with {what}; choose a new folder")
    start = _start(out, done)
    if not start.config.exists() or not start.space.exists():
        return None
    for line in (f"{out}: is there already", *done.said):
        say(line)
    return start


def _start(out: Path, done: Done) -> Start:
    return Start(
        out, out / "config.yaml", out / "space.yaml", str(out / "data"), done.seconds_per_step, done.total_steps
    )


def require_free(out: Path) -> None:
    """Raises UserError where a new folder holds more than an earlier call may have left: it would be overwritten."""
    if not out.is_dir() or (out / DONE).exists():
        return
    if other := sorted(name for name in os.listdir(out) if name not in OURS and not name.startswith(".")):
        raise UserError(f"--out {out}: is not empty (found {other[0]}); choose a new folder")


def check_places(src: str, out: Path, ask: Ask = NOTHING) -> None:
    """Raises UserError where `start` would, before it has made anything: for `src`, and for where `out` lies."""
    require_free(out)
    refuse_inside(out, recognise(src, ask.split, ask.labels)[0].path)


def this_machine(gpu: bool | None) -> Machine:
    """What trainings have here. Raises UserError where a GPU is asked for and there is none."""
    from act_ray.device import best_device

    lpips = all(weights.path.exists() for weights in LPIPS_FILES)
    if best_device(gpu).type == "cpu":
        return Machine(None, os.cpu_count() or 1, available_memory(), lpips)
    properties = torch.cuda.get_device_properties(0)
    return Machine(properties.name, os.cpu_count() or 1, properties.total_memory, lpips)


def _prepare(src: str, dst: Path, options: PrepareOptions, say: Say, tell: Say) -> ImageData:
    """The prepared data; `tell` hears how many images were left out."""
    manifest = prepare(src, dst, options, BROKEN, say)
    if bad := len(manifest["quarantined"]):
        of = manifest["count"] + bad
        tell(f"{manifest['count']:,} usable of {of:,} images: {dst / store.MANIFEST} lists what was left out, and why")
    return open_data(str(dst), say=say)


# ---------------------------------------------------------------------------------------------- measuring


def measured(
    looked: Look, machine: Machine, size: int, data: str, hours: float, say: Say, search: bool
) -> tuple[Network, Speed]:
    """The network that is chosen, and what a step of it takes. search: many trainings matter rather than one."""
    cpu, measure_once = machine.gpu is None, Measured(Path(data).parent / SPEEDS, (machine.gpu, machine.cores), say)
    candidates = [Network(width, BATCH, 1 if cpu else None) for width in choose.widths(looked.seen)]

    def measure(networks: Sequence[Network], last: Callable[[Speed], bool]) -> list[Speed]:
        configs = [trial_config(net, size, looked, data) for net in networks]
        return measure_once(configs, None if not cpu else False, last)

    speeds = measure(candidates, lambda speed: not choose.fits(speed, hours, machine))
    if not speeds:
        raise UserError(f"a training step with {size}x{size} images needs more memory than there is; try --size")
    at = max((i for i, speed in enumerate(speeds) if choose.fits(speed, hours, machine)), default=0)
    net, speed = candidates[at], speeds[at]
    if cpu and machine.cores > 1:
        every, side_by_side = replace(net, threads=None), machine.cores if search else min(machine.cores, 4)
        for other in measure([every], lambda _: True):
            if other.seconds * side_by_side / 2 < speed.seconds:  # else trials side by side do more
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
    out: Path, asked: dict[str, Any], said: Sequence[str], chosen: list[Choice], found: Look, machine: Machine,
    net: Network, speed: Speed, hours: float,
) -> Start:  # fmt: skip
    parallel = machine.cores if machine.gpu is None and net.threads == 1 else 1
    space = choose.search_space(chosen, found, speed, parallel, hours)
    parse_space({"preset": BASE, **space}, "space.yaml")  # our bug where it is none
    texts = {"config.yaml": config_text(BASE, chosen, described(found)), "space.yaml": space_text(BASE, space, hours)}
    total = next(choice.value for choice in chosen if choice.name == "train.total_steps")
    done = Done(json.loads(json.dumps(asked)), speed.seconds, total, tuple(said))
    jsonfile.write(out / DONE, asdict(done))  # first: a folder with the other files alone is taken for the user's
    for name, text in texts.items():
        replace_atomically(out / name, partial(Path.write_text, data=text))
    (out / SPEEDS).unlink(missing_ok=True)
    return _start(out, done)
