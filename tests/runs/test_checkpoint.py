"""Checkpoints: whole state, whole or absent whatever kills the writer, every damaged byte found and named."""

import errno
import json
import os
import pickle
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from act_ray.config import Config
from act_ray.core.noise import Noise
from act_ray.core.step import TrainState, train_step
from act_ray.data.shards import open_data
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import Snapshot, newest_whole, save, saved_steps, step_folder
from act_ray.runs.folder import MANIFEST
from act_ray.train.batches import fetch
from act_ray.train.ranks import Ranks
from act_ray.train.setup import build_state
from tests.helpers.tiny_runs import in_child, tensors, tiny

EXTRA = {"detector": {"seen": [1, 2]}, "score": 0.1 + 0.2, "best": [1e9, 3]}


def fresh(cfg: Config) -> TrainState:
    return build_state(cfg, open_data("digits"), Ranks(), print)


MODULES, OPTIMIZERS = ("model", "teacher", "ema", "discriminator"), ("optimizer_g", "optimizer_d")


def advance(state: TrainState, cfg: Config, steps: int) -> None:
    for _ in range(steps):
        (x, labels), own = fetch(open_data("digits"), cfg, state.step, Ranks())
        train_step(state, x, labels, Noise(0, state.step, x.device), cfg.step, own=own)


def whole_state(state: TrainState) -> dict[str, Any]:
    """Everything that a step changes, flat."""
    flat: dict[str, Any] = {"step": state.step, **vars(state.controller)}
    flat |= {name: scaler.state_dict() for name, scaler in checkpoint.scalers(state).items()}
    for name in MODULES:
        flat |= {f"{name}.{key}": value for key, value in getattr(state, name).state_dict().items()}
    for name in OPTIMIZERS:
        saved = getattr(state, name).state_dict()
        flat |= {f"{name}.{i}.{key}": value for i, slots in saved["state"].items() for key, value in slots.items()}
        flat[f"{name}.param_groups"] = json.dumps(saved["param_groups"])
    return flat


def assert_same(a: TrainState, b: TrainState) -> None:
    x, y = whole_state(a), whole_state(b)
    assert x.keys() == y.keys()
    for key, value in x.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == y[key].dtype, key
            assert torch.equal(value, y[key]), key
        else:
            assert value == y[key], key


@pytest.fixture(scope="module")
def state(cache: None) -> TrainState:
    """After three steps: every slot of the optimisers is filled."""
    cfg = tiny({"augment.enabled": True})
    state = fresh(cfg)
    advance(state, cfg, 3)
    return state


@pytest.fixture
def root(state: TrainState, tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save_as(tmp_path / "root", state, step)
    return tmp_path / "root"


def save_as(root: Path, state: TrainState, step: int) -> None:
    before, state.step = state.step, step
    try:
        save(root, Snapshot.take(state, EXTRA))
    finally:
        state.step = before


# ---------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize(
    "settings",
    [
        {"augment.enabled": True},
        {"optim.name": "adam"},
        {"optim.name": "adam", "train.channels_last": True},
        {"model.num_classes": 10},
        {"train.precision": "fp16"},
        {"augment.enabled": True, "augment.tau": "auto", "loss.gp_interval": 1},
    ],
)
def test_a_loaded_state_is_the_saved_one_and_goes_on_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    cfg = tiny(settings)
    ours = fresh(cfg)
    advance(ours, cfg, 3)
    folder = save(tmp_path, Snapshot.take(ours, EXTRA))
    theirs = fresh(tiny({**settings, "train.seed": 7}))
    extra = checkpoint.load(folder, theirs)
    assert {key: extra[key] for key in EXTRA} == EXTRA
    assert_same(ours, theirs)
    for one in (ours, theirs):
        advance(one, cfg, 2)
    assert_same(ours, theirs)


def test_a_checkpoint_holds_tensors_and_strict_json_alone(root: Path) -> None:
    folder = step_folder(root, 3)
    names = {p.name for p in folder.iterdir()}
    assert names == {f"{n}.safetensors" for n in (*MODULES, *OPTIMIZERS, "controller")} | {"state.json", MANIFEST}
    for file in folder.glob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)
    assert tensors(folder)["controller/p_aug"].shape == ()


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.path,)


def test_no_pickle_is_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sung = tmp_path / "sung"
    for name in ("model.pt", "model.safetensors.pt", "data.pkl", "optimizer_g.pth"):
        (step_folder(root, 3) / name).write_bytes(pickle.dumps(Canary(str(sung))))
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("unpickled"))
    assert newest_whole(root) == (3, [])
    target = fresh(tiny())
    checkpoint.load(step_folder(root, 3), target)
    assert target.step == 3
    (step_folder(root, 3) / "model.safetensors").write_bytes(pickle.dumps(Canary(str(sung))))
    assert newest_whole(root)[0] == 2
    assert not sung.exists()


# ---------------------------------------------------------------------------------------------- retention


def test_the_newest_and_the_best_are_kept(state: TrainState, tmp_path: Path) -> None:
    kept = []
    for step in range(1, 7):
        save_as(tmp_path, state, step)
        checkpoint.prune(tmp_path, step, keep=2, best=None if step < 2 else 2)
        kept.append(saved_steps(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6]]
    save_as(tmp_path, state, 4)  # after a fall-back: 5 and 6 are damaged ones of a future that did not happen
    checkpoint.prune(tmp_path, 4, keep=2, best=2)
    assert saved_steps(tmp_path) == [2, 4]


def test_other_things_in_the_folder_are_left_alone(root: Path) -> None:
    (root / "step-by-step.txt").touch()
    (root / "notes").mkdir()
    checkpoint.prune(root, 3, keep=2, best=None)
    assert saved_steps(root) == [2, 3]
    assert (root / "step-by-step.txt").exists()
    assert (root / "notes").exists()
    assert newest_whole(root / "nowhere") == (None, [])


# ---------------------------------------------------------------------------------------------- killed while writing


def mortal(n: int) -> None:
    """Die by SIGKILL at the n-th file operation from now on: before it, or after it with its file half written."""
    calls = 0

    def point(torn: Path | None = None) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            if torn is not None:
                os.truncate(torn, torn.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(module: Any, name: str, written: Callable[..., Path] | None = None) -> None:
        original = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            point()
            result = original(*args, **kwargs)
            if written is not None:
                point(torn=written(*args))
            return result

        setattr(module, name, wrapped)

    wrap(checkpoint, "save_file", lambda tensors, path: path)
    wrap(Path, "write_text", lambda path, text: path)
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # a killed process loses nothing to the page cache
    for name in ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir"):
        wrap(os, name)


@pytest.mark.parametrize("damaged", [False, True], ids=["new", "over a damaged one"])
def test_killed_at_every_point_of_a_write_a_whole_one_is_found(
    damaged: bool, state: TrainState, root: Path, tmp_path: Path
) -> None:
    if damaged:
        save_as(root, state, 4)
        (step_folder(root, 4) / "state.json").unlink()
    expected = {p.name: p.read_bytes() for p in step_folder(root, 3).iterdir()}
    found = set()
    for n in range(1, 300, 3 if damaged else 1):
        copy = tmp_path / str(n)
        shutil.copytree(root, copy)

        def child(n: int = n, copy: Path = copy) -> None:
            mortal(n)
            save_as(copy, state, 4)
            checkpoint.prune(copy, 4, keep=2, best=None)

        ended = in_child(child)
        step, problems = newest_whole(copy)
        assert step == 4 or (step == 3 and {p.name: p.read_bytes() for p in step_folder(copy, 3).iterdir()} == expected)
        assert not problems or (damaged and "step-00000004" in problems[0]), problems
        found.add(step)
        if ended == 0:
            break
        assert ended == signal.SIGKILL
        if n % 4 == 0:  # and the next writer cleans up
            save_as(copy, state, 5)
            checkpoint.prune(copy, 5, keep=2, best=None)
            assert newest_whole(copy) == (5, [])
            assert {p.name for p in copy.iterdir()} == {step_folder(copy, s).name for s in saved_steps(copy)}
        shutil.rmtree(copy)
    assert ended == 0
    assert n > 50
    assert found == {3, 4}


# ---------------------------------------------------------------------------------------------- damaged


def test_every_damage_is_found_and_the_file_named(root: Path) -> None:
    """260 flips, truncations, deletions and additions; a flip in a list of checksums must not accuse another file."""
    dice = random.Random(0)
    folder = step_folder(root, 3)
    files = sorted(folder.iterdir())
    for i in range(260):
        path = files[i % len(files)]
        content = path.read_bytes()
        match i // len(files) % 5:
            case 0 | 1:
                at = dice.randrange(len(content))
                path.write_bytes(content[:at] + bytes([content[at] ^ dice.randrange(1, 256)]) + content[at + 1 :])
            case 2:
                path.write_bytes(content[: dice.randrange(len(content))])
            case 3:
                path.write_bytes(content + dice.randbytes(dice.randrange(1, 9)))
            case 4:
                path.unlink()
        step, problems = newest_whole(root)
        assert step == 2
        assert len(problems) == 1
        assert problems[0].startswith(f"{path} ")
        path.write_bytes(content)
    assert newest_whole(root) == (3, [])


def test_blanks_and_capitals_in_the_manifest_count_as_damage(root: Path) -> None:
    path = step_folder(root, 3) / MANIFEST
    text = path.read_text()
    for changed in (text.replace("\n", "\r"), text.replace('"version": 1', '"version": 2'), text.strip(), "{}", "[]"):
        path.write_text(changed)
        assert newest_whole(root)[0] == 2
    path.unlink()
    path.mkdir()
    assert newest_whole(root) == (2, [f"{path} cannot be read (IsADirectoryError)"])


def test_when_all_are_damaged_there_is_none(root: Path) -> None:
    for step in saved_steps(root):
        (step_folder(root, step) / "teacher.safetensors").write_bytes(b"")
    step, problems = newest_whole(root)
    assert step is None
    assert [f"step-0000000{n}/teacher.safetensors" in line for n, line in zip((3, 2, 1), problems, strict=True)]


# ---------------------------------------------------------------------------------------------- full disk


@pytest.mark.parametrize("fails", range(1, 22, 2))
def test_a_full_disk_leaves_the_one_before_and_gets_its_space_back(
    fails: int, state: TrainState, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def full(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **kwargs)

        return wrapped

    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full(checkpoint.save_file))
        patch.setattr(Path, "write_text", full(Path.write_text))
        patch.setattr(os, "fsync", full(os.fsync))
        with pytest.raises(OSError, match="No space left"):
            save_as(root, state, 4)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    assert {p.name for p in root.iterdir()} == {"step-00000001", "step-00000002", "step-00000003"}
    save_as(root, state, 4)
    assert newest_whole(root) == (4, [])


def test_a_real_limit_on_file_sizes(state: TrainState, root: Path) -> None:
    """What the kernel says half-way through a file, not a patched function."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(Exception, match="File too large"):
            save_as(root, state, 4)

    assert in_child(child) == 0
    assert newest_whole(root) == (3, [])
    assert {p.name for p in root.iterdir()} == {"step-00000001", "step-00000002", "step-00000003"}
