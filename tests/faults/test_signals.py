"""Signals to `train`, at a point that the process chooses itself: it saves, says how to go on, and does so exactly."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from act_ray import cli, settings
from act_ray.runs import checkpoint, interrupt
from act_ray.runs.folder import STOP
from act_ray.runs.storage import ObjectStore
from act_ray.train import loop, run
from act_ray.train.scoring import Scorer
from tests.helpers.fault_ledger import FULL, note
from tests.helpers.tiny_runs import assert_same_run, in_child, newest, rows, tiny

SIGNALS = {signal.SIGINT: (0, 130), signal.SIGTERM: (143, 143), signal.SIGHUP: (129, 129)}  # exit codes: saved, early
# Where it comes: what is called there, and at which call.
POINTS: dict[str, tuple[Any, str, int]] = {
    "at start-up": (run, "build_state", 1),
    "in a step": (loop, "train_step", 7),
    "in a save": (checkpoint, "save_file", 5),
    "while scoring": (Scorer, "__call__", 1),
}


def train(location: Path, said: Path, before: Callable[[], None] = lambda: None) -> int:
    """`act-ray train --workers 0` of the tiny run, in a process of its own; its exit code."""
    ended = in_child(lambda: become_train(location, said, before))
    return 128 + ended if ended > 0 else -ended  # as a shell says it


def become_train(
    location: Path, said: Path, before: Callable[[], None] = lambda: None, storage: str | None = None
) -> NoReturn:
    """In a child: `act-ray train --workers 0` of the tiny run, what it prints into a file, and its exit code."""
    config = location.with_suffix(".yaml")
    config.write_text(settings.dump(tiny()))
    how = (
        ["--resume", str(location)]
        if (location / "config.yaml").exists()
        else ["--config", str(config), "--name", location.name]
    )

    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    for number in SIGNALS:  # whatever these tests were started by may have them ignored
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    interrupt.ONE_S = 0.0
    before()
    code: object = None
    try:
        cli.run(cli.group, ["train", "--workers", "0", *how, "--storage", storage or str(location.parent)], "act-ray")
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


def sent_at(point: str, number: int, times: int) -> Callable[[], None]:
    """Have the process send itself a signal there."""
    place, name, call = POINTS[point]

    def prepare() -> None:
        original, calls = getattr(place, name), itertools.count(1)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call:
                for sent in range(times):
                    os.kill(os.getpid(), number)
                    while len(interrupt._received) <= sent:  # two that come at once are one
                        time.sleep(0.001)
            return original(*args, **kwargs)

        setattr(place, name, wrapped)

    return prepare


CASES = list(itertools.product(POINTS, SIGNALS, (1, 2)))


@pytest.mark.parametrize(("point", "number", "times"), CASES if FULL else CASES[::5])
def test_a_signal_costs_nothing(point: str, number: signal.Signals, times: int, whole: Path, tmp_path: Path) -> None:
    place, said = tmp_path / "run", tmp_path / "said"
    code = train(place, said, sent_at(point, number, times))
    text, (saved, given_up) = said.read_text(), SIGNALS[number]
    assert "Traceback" not in text
    gave_up = point == "at start-up" or (number == signal.SIGINT and times == 2)
    assert code == (given_up if gave_up else saved), text
    if not gave_up:
        done = len(rows(place / "metrics.jsonl"))
        assert f"saved at step {done} of 12; go on with: " in text
        assert newest(place).name == f"step-{done:08d}"
    assert train(place, said) == 0, said.read_text()
    assert_same_run(place, whole)
    fault = f"{number.name}{' twice' if times == 2 else ''}, {point}"
    note(
        fault, "ended at once, went on bit for bit" if gave_up else "saved, went on bit for bit", None if gave_up else 0
    )


def test_ctrl_c_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    """Where it takes a connection and never answers: the run cannot be told, and Ctrl-C says so soon."""
    said, took = tmp_path / "said", tmp_path / "took"

    def prepare() -> None:
        step, write = loop.train_step, ObjectStore.write

        def silent(store: ObjectStore, name: str, content: bytes = b"") -> None:
            if name == STOP:
                time.sleep(600)
            write(store, name, content)

        def wrapped(state: Any, *rest: Any) -> Any:
            if state.step == 7:
                began = time.monotonic()
                os.kill(os.getpid(), signal.SIGINT)
                while "does not answer: the run is told when it does" not in said.read_text():
                    time.sleep(0.01)
                took.write_text(str(time.monotonic() - began))
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(600)
            return step(state, *rest)

        ObjectStore.write, loop.train_step = silent, wrapped  # type: ignore[method-assign]

    bucket = (tmp_path / "bucket").as_uri()
    assert in_child(lambda: become_train(tmp_path / "run", said, prepare, bucket)) == -130, said.read_text()
    text = said.read_text()
    assert "Traceback" not in text
    go_on = f"go on with: python -m act_ray.train --resume {bucket}/run --workers 0"
    assert text.splitlines()[-1] == f"error: interrupted; {interrupt.LOST}; {go_on}"
    assert float(took.read_text()) < interrupt.ASK_S + 20  # it was a minute
    note("Ctrl-C, an object store that never answers", "told after 3 s; Ctrl-C again ends it at once")
