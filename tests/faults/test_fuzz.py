"""Files that are damaged, or made to do harm: one line or a right answer, soon; nothing runs or is written elsewhere.

A case is a number: it decides the target, the file and what is wrong in it, so that a failure can be had again.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from act_ray.data import lmdb_child
from act_ray.errors import UserError
from tests.helpers.fuzz_targets import TARGETS, Target, cache_at
from tests.helpers.mutations import mutated

CASES, SAMPLE = 2_000, 150
MOST_S, HANGS_S = 5.0, 60.0  # of the processor, which other processes do not make longer; and by the clock
ORDER = [target for target in TARGETS for _ in range(target.weight)]
RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn",
        "socket.connect", "socket.bind", "pickle.find_class", "code.__new__", "shutil.unpack_archive", "ctypes.dlopen",
        "webbrowser.open")  # fmt: skip
WRITES = {
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
}


class Watch:
    """Python's audit events while a case runs: none of RUNS, and nothing is written but below `inside`."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self.hook)  # for good: no hook can be taken away

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event == "subprocess.Popen" and lmdb_child.__file__ in (args[1] or ()):
            return  # the program that reads LMDB
        if event in RUNS:
            self.seen.append(f"{event} {args!r}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(args[2], int) else False
            if writes and os.fsdecode(args[0]) != os.devnull:
                self.check(event, args[0])
        elif event in WRITES:
            self.check(event, args[1] if event in ("os.link", "os.symlink", "os.rename") else args[0], args[-1])

    def check(self, event: str, path: Any, folder: Any = -1) -> None:
        """`folder`: the handle of the one that the path is in, or -1."""
        if isinstance(path, int):
            return
        at = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else ""
        if not Path(os.path.abspath(os.path.join(at, os.fsdecode(path)))).is_relative_to(self.inside or "/"):
            self.seen.append(f"{event} {path!r}")


WATCH: list[Watch] = []
Base = Callable[[Target], tuple[Path, Any]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Each target's folder as it should be, with what is read of it; made, and read, when it is first asked for."""
    made: dict[str, tuple[Path, Any]] = {}
    if not WATCH:
        WATCH.append(Watch())

    def base(target: Target) -> tuple[Path, Any]:
        if target.name not in made:
            folder = tmp_path_factory.mktemp("base") / "whole"
            folder.mkdir()
            target.make(folder)
            copy = folder.with_name("copy")
            shutil.copytree(folder, copy, symlinks=True)
            with cache_at(copy / "cache"):  # also imports all that is needed
                made[target.name] = folder, target.read(copy)
        return made[target.name]

    return base


def too_long(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"over {MOST_S:g} s of processor time, or {HANGS_S:g} s in all")


def run_case(number: int, base: Base, root: Path) -> None:
    rng = random.Random(number)
    target = rng.choice(ORDER)
    whole, right = base(target)
    case = root / "case"
    shutil.copytree(whole, case, symlinks=True)
    files = [path for path in sorted(case.glob(rng.choice(target.files))) if path.is_file()]
    file = rng.choice(files or [path for path in sorted(case.rglob("*")) if path.is_file()])
    before = file.read_bytes()
    after = mutated(rng, file.name, before)
    file.write_bytes(after)
    if target.seal is not None and rng.random() < 0.7:
        with contextlib.suppress(Exception):  # there may be nothing left to seal
            target.seal(case)
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    said = f"case {number} ({target.name}, {file.relative_to(case)}, at {at} of {len(before)}): "
    said += repr(after[max(0, at - 40) : at + 120])
    watch = WATCH[0]
    watch.seen.clear()
    timers = {signal.SIGALRM: (signal.ITIMER_REAL, HANGS_S), signal.SIGPROF: (signal.ITIMER_PROF, MOST_S)}
    handlers = {number: signal.signal(number, too_long) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        watch.inside = case
        with cache_at(case / "cache"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = target.read(case)
        assert not target.alike or found == right, f"{said}: accepted"
    except UserError as error:
        if not str(error).strip():
            raise AssertionError(said) from error
    except BaseException as error:
        raise AssertionError(f"{said}: {type(error).__name__}: {error}") from error
    finally:
        watch.inside = None
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, handlers[number])
    assert not watch.seen, f"{said}: {watch.seen}"
    assert [p.name for p in root.iterdir()] == ["case"], said
    assert not [*case.rglob("PWNED")], said
    shutil.rmtree(case)


def test_a_sample_of_damaged_files(bases: Base, tmp_path: Path) -> None:
    for number in range(SAMPLE):
        run_case(number, bases, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_damaged_files(bases: Base, tmp_path: Path, part: int) -> None:
    for number in range(SAMPLE + part, CASES, 10):
        run_case(number, bases, tmp_path)
