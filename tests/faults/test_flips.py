"""Single bytes that change, and files that end early, in what a run and a search need: nobody is given other numbers.

A case is a number, which decides what is damaged and where, so that a failure can be had again. Each ends in one of
four ways: one line that refuses; the whole rest, and a line about what was left out; the same as without the damage;
or, of a log that ends early, what a process that was killed there would have left.
"""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.explain.__main__ import explain_search
from act_ray.figures.curves import read_history
from act_ray.generators.reading import read_generator
from act_ray.list.__main__ import runs
from act_ray.metrics.classifier import ClassifierFeatures, cached_weights, train_classifier
from act_ray.metrics.reference import load_reference, measure_images
from act_ray.runs.folder import RunFolder
from act_ray.tune.experiment import Experiment
from tests.helpers.fault_ledger import FULL, note
from tests.helpers.fuzz_targets import cache_at, make_data, read_data, read_fresh
from tests.helpers.searches import made_up
from tests.helpers.tiny_runs import assert_same_run, go, newest, same, tensors, tiny

CASES = 1_000 if FULL else 70
REFUSED, SKIPPED, EQUAL, SHORTER = "caught, one line", "skipped and reported", "no effect, equal result", "a log's end"
Read = Callable[[Path], tuple[str, Any]]  # what was said of damage, and what was read


@dataclass(frozen=True)
class Target:
    """what: in the ledger. files: globs of what is damaged. read: of a copy. less: whether a part of the right result,
    which a list is then, is right where something is said of the rest."""

    what: str
    make: Callable[[Path], object]
    files: str
    read: Read
    less: bool = False
    weight: int = 1


def silent(read: Callable[[Path], Any]) -> Read:
    return lambda case: ("", read(case))


# ---------------------------------------------------------------------------------------------- what is read


def make_run(base: Path) -> None:
    """With the checkpoints of steps 10 and 12, and the best one."""
    go(tiny(), base / "run")


def resume(case: Path, whole: Path) -> tuple[str, Any]:
    """The run goes on to its end: from wherever, it is the same run, or refused."""
    events = case / "run" / "events.jsonl"
    before = len(events.read_bytes())
    go(tiny(), case / "run")
    assert_same_run(case / "run", whole)
    new = events.read_bytes()[before:] if events.stat().st_size >= before else events.read_bytes()
    return noted(new), "the same run"


def noted(events: bytes) -> str:
    return "\n".join(line for line in events.decode(errors="replace").splitlines() if '"note"' in line)


def resume_rows(case: Path, whole: Path) -> tuple[str, Any]:
    """It goes on though its rows are damaged: the same numbers, and what is left of the rows."""
    go(tiny(), case / "run")
    assert same(tensors(newest(case / "run")), tensors(newest(whole)))
    run = RunFolder(str(case / "run"))
    said = noted((case / "run" / "events.jsonl").read_bytes())
    return said, [*run.rows("metrics.jsonl"), *run.rows("scores.jsonl")]


def read_model(case: Path) -> tuple[str, Any]:
    """Its weights; where they are of an earlier step, its origin says why."""
    found = read_generator(str(case / "run"), which="last")
    assert (found.step != 12) == ("a newer one is damaged" in found.origin)
    sums = {name: value.double().sum().item() for name, value in found.tensors.items()}
    return ("" if found.step == 12 else found.origin), (sums if found.step == 12 else None)


def read_run_rows(case: Path) -> tuple[str, Any]:
    history = read_history(str(case / "run"))
    return "\n".join(history.left_out), [*history.metrics, *history.scores]


def read_search(case: Path) -> tuple[str, Any]:
    """What --resume takes in, `list` and `explain` say the same of the damage."""
    found = Experiment.read(str(case / "search"), scratch="views")
    said = f"{found.bad} line(s)" if found.bad else ""
    (listed,) = [about for name, about in runs(case) if name == "search"]
    assert ("cannot be read" in listed) == bool(said)
    assert [line for line in explain_search(str(case / "search")) if "cannot be read" in line] != [] or not said
    reports = [report for trial in found.trials.values() for report in trial.reports]
    return said, [*reports, *[(i, str(t.outcome), t.waiting, t.prune) for i, t in found.trials.items()]]


def measure(folder: Path) -> tuple[str, Any]:
    """The features' network, and what it makes of the real images, through the cache."""
    said = list[str]()
    with cache_at(folder / "cache"):
        data = open_data("digits")
        weights = cached_weights("small", "made again", said.append, partial(train_few, data))
        network = ClassifierFeatures(weights)
        parts = lambda chunks, keep: (measure_images(network, data, chunk, keep) for chunk in chunks)  # noqa: E731
        found = load_reference(network, data, parts, features=True)
        assert found.features is not None
        return "", [found.statistics["mu"].tobytes(), found.statistics["sigma"].tobytes(), found.features.sum().item()]


def train_few(data: Any, partial_file: Path) -> torch.nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("act_ray.metrics.classifier.STEPS", 3)
        return train_classifier(data, partial=partial_file)


# ---------------------------------------------------------------------------------------------- the cases


def targets(whole: Path) -> list[Target]:
    again = partial(resume, whole=whole)
    return [
        Target("a checkpoint, resumed", make_run, "run/checkpoints/*/*", again, weight=2),
        Target("a run's logs, resumed", make_run, "run/[ms]*.jsonl", partial(resume_rows, whole=whole), less=True),
        Target("a checkpoint's weights", make_run, "run/checkpoints/step-00000012/*", read_model, weight=6),
        Target("a data set's manifest and shards", make_data, "data/*", silent(read_fresh), weight=4),
        Target("a data set read on the fly", make_data, "data/*", silent(partial(read_fresh, decode="on_the_fly")),
               weight=4),
        Target("a decoded cache", make_data, "cache/*/*", silent(read_data), weight=4),
        Target("features and their statistics in the cache", measure, "cache/*/*", measure, weight=2),
        Target("a run's logs", make_run, "run/[ms]*.jsonl", read_run_rows, less=True, weight=4),
        Target("a search's log", lambda base: made_up(base / "search"), "search/events.jsonl", read_search, less=True,
               weight=4),
    ]  # fmt: skip


def damaged(rng: random.Random, raw: bytes) -> tuple[str, bytes]:
    """One byte that is another (one bit of it, or any), or an end that is missing; or, of a log, is no line's end."""
    if rng.random() < 0.25:
        return "end", raw[: rng.randrange(len(raw))]
    at, out = rng.randrange(len(raw)), bytearray(raw)
    out[at] ^= rng.choice([1 << rng.randrange(8), rng.randrange(1, 256)])
    return "end" if at == len(raw) - 1 else "byte", bytes(out)


def outcome(target: Target, case: Path, right: Any, how: str) -> str:
    try:
        said, found = target.read(case)
    except UserError as error:
        return REFUSED if str(error) and "\n" not in str(error) else "more than a line"
    if json.dumps(found, default=repr) == json.dumps(right, default=repr):
        return SKIPPED if said else EQUAL
    if said and not target.less:
        assert found is None
        return SKIPPED
    assert target.less, "other numbers"
    kept = {json.dumps(one, default=repr) for one in right}
    strange = [one for one in found if json.dumps(one, default=repr) not in kept]
    assert not [one for one in strange if isinstance(one, dict)], "a row that was not written"
    assert said or how == "end", "a row is missing, and nothing says so"
    return SKIPPED if said else SHORTER


@pytest.mark.parametrize("part", range(10 if FULL else 1))
def test_no_byte_that_changes_gives_other_numbers(part: int, whole: Path, tmp_path: Path) -> None:
    every = targets(whole)
    order = [target for target in every for _ in range(target.weight)]
    bases = dict[Callable[[Path], object], Path]()
    rights = dict[str, Any]()
    for number in range(part, CASES, 10 if FULL else 1):
        rng = random.Random(number)
        target = order[number // 10 % len(order)] if FULL else order[number % len(order)]
        if target.make not in bases:
            base = bases[target.make] = tmp_path / f"base{len(bases)}"
            base.mkdir()
            target.make(base)
        if target.what not in rights:
            rights[target.what] = on_a_copy(bases[target.make], tmp_path / "right", target.read)[1]
        case = tmp_path / "case"
        shutil.copytree(bases[target.make], case)
        file = rng.choice([path for path in sorted(case.glob(target.files)) if path.is_file() and path.stat().st_size])
        before = file.read_bytes()
        how, after = damaged(rng, before)
        file.write_bytes(after)
        said = f"case {number} ({target.what}, {file.relative_to(case)}, {how})"
        with cache_at(case / "cache") if (case / "cache").exists() else contextlib.nullcontext():
            try:
                found = outcome(target, case, rights[target.what], how)
                assert found in (REFUSED, SKIPPED, EQUAL, SHORTER), found
                note(f"a byte changes, or the end is missing: {target.what}", found)
            except BaseException as error:
                at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
                said += f" at {at} of {len(before)}: {after[max(0, at - 60) : at + 60]!r}"
                raise AssertionError(said) from error
        shutil.rmtree(case)


def on_a_copy(base: Path, copy: Path, read: Read) -> tuple[str, Any]:
    shutil.copytree(base, copy)
    try:
        with cache_at(copy / "cache") if (copy / "cache").exists() else contextlib.nullcontext():
            return read(copy)
    finally:
        shutil.rmtree(copy)
