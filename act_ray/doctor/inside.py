"""`python -m act_ray.doctor.inside`: what takes torch, in a process of its own that may run out of memory.

A line of JSON on stdout for each row as soon as it is known; `{"step": "begins"}` before the first training step.
"""

import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch

from act_ray import settings
from act_ray.config import Config, DataConfig
from act_ray.data.shards import ImageData, about, open_data
from act_ray.doctor import places
from act_ray.doctor.machine import available_memory, machine
from act_ray.doctor.measure import Measured, OutOfMemory, measurable, measure
from act_ray.doctor.plan import Plan, make_plan, with_network
from act_ray.doctor.rows import Row, State, row_of
from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.train.memory import smaller_micro_batch, training
from act_ray.train.preflight import findings
from act_ray.train.sizes import checkpoint_bytes
from act_ray.tune.disk import networks
from act_ray.tune.space_checks import findings_of_search

DECODE = 1 << 29  # bytes: data up to this size is decoded here, as the start of a run would
TIGHT = 0.8  # share of the memory from which on there is a warning
LONG_S = 14 * 86400.0
BEGINS = {"step": "begins"}
Lines = Iterator[Row | dict[str, str]]


def main() -> None:
    """The request comes as JSON, on the command line."""
    request = json.loads(sys.argv[1])
    storage, gpu = request.pop("storage"), request.pop("gpu")
    for line in look(make_plan(**request), storage, gpu):
        print(json.dumps(line if isinstance(line, dict) else asdict(line)), flush=True)


def look(plan: Plan, storage: str, gpu: bool | None) -> Lines:
    """The rows that need torch, in the order of the table."""
    here = machine(visible_gpus(), plan.workers, gpu)
    yield here
    try:
        plan = with_network(plan)
    except UserError as error:
        yield row_of("settings", str(error))
        return
    data = None
    try:
        data, row = open_or_stand_in(plan.cfg.data)
    except UserError as error:
        row = row_of("data", str(error))
    yield row
    if plan.space is None:
        found = findings(plan.cfg, plan.workers, lambda one: open_or_stand_in(one)[0])
    else:
        found = findings_of_search(plan.space, plan.workers, lambda one: open_or_stand_in(one)[0])
    yield from (again for what, message in found if (again := row_of(what, message)) != row)
    fits = data is not None and all(what == "weights" for what, _ in found)  # without weights it can be measured
    try:
        if data is not None and fits:
            largest, one = largest_network(plan, data)
            kept = plan.cfg.checkpoint
            yield places.disk(one, kept.keep + 1 + kept.good, plan.trials, storage)
            if here.state is not State.MISSING:
                yield from step_rows(plan, largest_batch(plan, largest), data, gpu)
                return
    except UserError as error:
        if str(error) not in {message for _, message in found}:
            yield row_of("settings", str(error))
    yield Row("step", "not measured, for what is missing", State.WARNING)


def visible_gpus() -> list[str]:
    """Name and memory of each GPU that torch sees."""
    if not torch.cuda.is_available():
        return []
    every = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{one.name}, {in_units(one.total_memory)}" for one in every]


def open_or_stand_in(cfg: DataConfig) -> tuple[ImageData, Row]:
    """The data; in place of a large set that is not decoded yet grey images of its shape. Raises UserError."""
    path = cfg.path
    waiting = None if path == "digits" else places.undecoded(path)
    if waiting is not None and math.prod(waiting[0]) > DECODE:
        shape, classes = waiting
        labels = np.arange(shape[0]) % classes if classes else None
        data = ImageData(np.broadcast_to(np.uint8(128), shape), labels, classes, "", path)
        if cfg.decode == "on_the_fly":
            return data, Row("data", f"{path}: {about(data)}; read on the fly, whose time is not measured")
        return data, places.decoding(f"{path}: {about(data)}", shape)
    data = open_data(path, cfg.decode)
    return data, Row("data", f"{path}: {about(data)}")


def largest_network(plan: Plan, data: ImageData) -> tuple[Config, int]:
    """The settings of the trial whose checkpoint is the largest, and its bytes."""
    _, channels, size, _ = data.images.shape
    if plan.space is None:
        return plan.cfg, checkpoint_bytes(measurable(plan.cfg)[0], channels, size)
    sizes = [(checkpoint_bytes(measurable(cfg)[0], channels, size), cfg) for cfg in networks(plan.space)]
    one, cfg = max(sizes, key=lambda pair: pair[0])
    return cfg, one


def largest_batch(plan: Plan, cfg: Config) -> Config:
    """The settings with the largest batch that a trial can have."""
    if plan.space is None:
        return cfg
    return settings.with_changes(cfg, {"train.global_batch": plan.space.most("train.global_batch")}, plan.name)


# ---------------------------------------------------------------------------------------------- the step


def step_rows(plan: Plan, cfg: Config, data: ImageData, gpu: bool | None) -> Lines:
    """Memory and time, by real steps."""
    cfg, left_out = measurable(cfg)
    free = available_memory()
    die_first()
    yield BEGINS
    batch = cfg.train.global_batch // max(1, plan.workers)
    what = f"a step of batch {batch}{left_out}"
    _, less = training(cfg, max(1, plan.workers))
    less += "; or a smaller network" + ("" if plan.workers else ", or more --workers")
    try:
        measured = measure(cfg, data, plan.workers, gpu)
    except OutOfMemory as error:
        yield Row("memory", f"{what} does not fit: {error}", State.MISSING, less)
        yield BEGINS  # for these the limit counts anew, and what was found stands
        yield what_fits(plan, cfg, data, gpu)
        return
    yield memory(measured, what, max(1, plan.workers), free, less)
    yield duration(measured, plan, left_out)


def what_fits(plan: Plan, cfg: Config, data: ImageData, gpu: bool | None) -> Row:
    """The largest train.micro_batch that fits, by a real step of a batch of so many."""
    workers = max(1, plan.workers)
    while (micro := smaller_micro_batch(cfg, workers)) is not None:
        cfg = settings.with_changes(cfg, {"train.micro_batch": micro}, plan.name)
        as_large = {"train.micro_batch": None, "train.global_batch": micro * workers}
        try:
            measured = measure(settings.with_changes(cfg, as_large, plan.name), data, plan.workers, gpu)
        except OutOfMemory:
            continue
        peak = "" if measured.gpu is None else f": peak {in_units(measured.gpu)}"  # the machine's is of all attempts
        return Row("smaller", f"train.micro_batch={micro} fits{peak}")
    return Row("smaller", "no train.micro_batch fits", State.WARNING, "a smaller network")


def die_first() -> None:
    """Where memory runs out, the kernel ends this process rather than somebody's training."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def memory(measured: Measured, what: str, workers: int, free: int, less: str) -> Row:
    """What a step took, against what there is: of the GPU where it ran on one."""
    if measured.gpu is not None:
        used, there, where = measured.gpu, torch.cuda.get_device_properties(0).total_memory, "of the GPU's"
        line = f"{what}: peak {in_units(used)} {where} {in_units(there)}, {in_units(measured.memory)} of the machine's"
    else:
        used, there = measured.memory * workers, free
        line = f"{what}: peak {in_units(measured.memory)}" + (f" in each of {workers} workers" if workers > 1 else "")
        line += f", of {in_units(there)} free"
    if used > there:
        return Row("memory", line, State.MISSING, less)
    return Row("memory", line, State.WARNING, less) if used > TIGHT * there else Row("memory", line)


def duration(measured: Measured, plan: Plan, left_out: str) -> Row:
    """Seconds of a step, and so of all steps; scores come on top."""
    whole = measured.seconds * plan.steps * plan.trials
    count = f"{plan.steps:,} steps" + (
        f" of each of {plan.trials} trials, one after the other and all to their end" if plan.space else ""
    )
    line = f"{measured.seconds:.2g} s a step (mean of {measured.steps}{left_out}): {for_people(whole)} for {count}"
    if measured.steps == 1:
        line = line.replace("mean of 1", "the first, which is slower than others")
    line += "; scores not counted"
    if whole > LONG_S:
        return Row("time", line, State.WARNING, "a GPU, more workers, or fewer train.total_steps")
    return Row("time", line)


def for_people(seconds: float) -> str:
    """A duration."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
