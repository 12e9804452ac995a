"""Checkpoints: the whole training state as safetensors and JSON, written atomically, verified on load.

    step-00000200/
      model.safetensors teacher.safetensors ema.safetensors discriminator.safetensors
      optimizer_g.safetensors optimizer_d.safetensors controller.safetensors   (no D, no file of it)
      state.json       step, optimizer settings, loss scales of fp16, detector, score
      MANIFEST.json    size and sha256 of each file, and of this list; written last

There is no random state to save: every draw depends on (seed, step) alone (core/noise.py).
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import NonNegativeInt, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from act_ray import jsonfile
from act_ray.core.step import TrainState, unwrap
from act_ray.files import publish, sha256
from act_ray.runs.folder import MANIFEST as MANIFEST

OWN = ("lr", "betas")  # of an optimizer, from the run's settings and not from the checkpoint: a fork may change them


class CorruptCheckpoint(Exception):
    """A checkpoint that is not what was written; the message names the file."""


@dataclass(frozen=True)
class Saved:
    """What others than training need of state.json."""

    step: NonNegativeInt
    best: tuple[float, NonNegativeInt] | None  # score, step
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    label_counts: list[NonNegativeInt] | None
    data_checksum: str


# ---------------------------------------------------------------------------------------------- what a checkpoint holds


def modules(state: TrainState) -> dict[str, nn.Module]:
    """The networks, by the names of their files; no discriminator where nothing is adversarial."""
    found = {"model": state.model, "teacher": state.teacher, "ema": state.ema, "discriminator": state.discriminator}
    return {name: unwrap(module) for name, module in found.items() if module is not None}


def optimizers(state: TrainState) -> dict[str, Optimizer]:
    """The optimizers, by the names of their files."""
    found = {"optimizer_g": state.optimizer_g, "optimizer_d": state.optimizer_d}
    return {name: optimizer for name, optimizer in found.items() if optimizer is not None}


def scalers(state: TrainState) -> dict[str, GradScaler]:
    """The loss scales of fp16."""
    found = {"scaler_g": state.scaler_g, "scaler_d": state.scaler_d}
    return {name: scaler for name, scaler in found.items() if scaler is not None}


def scalars(state: TrainState) -> dict[str, Tensor]:
    """What Algorithm 2 carries from step to step, and where w_gp is steered that, in controller.safetensors."""
    return vars(state.controller) | ({} if state.steering is None else vars(state.steering))


# ---------------------------------------------------------------------------------------------- folders


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def saved_steps(root: Path) -> list[int]:
    """Steps of the checkpoints under `root`, oldest first; whether they are whole, `verify` says."""
    names = [path.name.removeprefix("step-") for path in root.glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


# ---------------------------------------------------------------------------------------------- save


@dataclass(frozen=True)
class Snapshot:
    """The state of step k in the host's memory, which training leaves alone."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # by the names of their files
    about: str  # state.json

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for group in self.tensors.values() for tensor in group.values())

    @classmethod
    def take(cls, state: TrainState, extra: dict[str, Any]) -> Self:
        """Copy the state: as many bytes as `size` says."""
        tensors: dict[str, dict[str, Tensor]] = {name: net.state_dict() for name, net in modules(state).items()}
        settings = {}
        for name, optimizer in optimizers(state).items():
            tensors[name], settings[name] = _flatten(optimizer)
        tensors["controller"] = scalars(state)
        scales = {name: scaler.state_dict() for name, scaler in scalers(state).items()}
        about = {"step": state.step, "optimizers": settings, "scalers": scales, **extra}
        copies = {name: {key: _copy(value) for key, value in group.items()} for name, group in tensors.items()}
        return cls(state.step, copies, jsonfile.text(about))


def save(root: Path, snapshot: Snapshot) -> Path:
    """Write the state of step k to root/step-k: aside, flushed, then renamed. A damaged one there is replaced."""
    target, aside = step_folder(root, snapshot.step), root / ".writing"
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
    aside.mkdir(parents=True)
    try:
        _fill(aside, snapshot)
        shutil.rmtree(target, ignore_errors=True)
        publish(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk gets its space back
    return target


def size(state: TrainState) -> int:
    """The bytes of what `save` writes, but for a few kB."""
    tensors = [tensor for module in modules(state).values() for tensor in module.state_dict().values()]
    tensors += [tensor for optimizer in optimizers(state).values() for tensor in _flatten(optimizer)[0].values()]
    return sum(tensor.nbytes for tensor in tensors)


def prune(root: Path, newest: int, keep: int, best: int | None, good: tuple[int, int] | None = None) -> None:
    """After saving step `newest`: delete all but the last `keep` up to it and the best one.

    good: (n, step): also the last n up to that step, from before a signature of collapse was found. Later steps than
    `newest` are damaged ones that the run fell back from: they must not count among those that are kept.
    """
    last = [step for step in saved_steps(root) if step <= newest][-keep:]
    if good is not None and good[0]:
        last += [step for step in saved_steps(root) if step <= good[1]][-good[0] :]
    for step in saved_steps(root):
        if step not in last and step != best:
            shutil.rmtree(step_folder(root, step), ignore_errors=True)


def _fill(folder: Path, snapshot: Snapshot) -> None:
    for name, tensors in snapshot.tensors.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(snapshot.about)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())}
    jsonfile.write(folder / MANIFEST, _manifest(files))


def _manifest(files: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(jsonfile.text(files).encode()).hexdigest()
    return {"format": "act_ray.checkpoint", "version": 1, "files": files, "sha256": digest}


def _copy(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())  # contiguous, whatever its layout was


def _flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors ("3.exp_avg") and plain settings."""
    whole = optimizer.state_dict()
    tensors = {f"{i}.{key}": torch.as_tensor(v) for i, slots in whole["state"].items() for key, v in slots.items()}
    return tensors, {"param_groups": whole["param_groups"]}


# ---------------------------------------------------------------------------------------------- load


def verify(folder: Path) -> None:
    """Compare the manifest with its own digest, then every file with it. Raises CorruptCheckpoint naming the first."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode()
        files = jsonfile.parse(text)["files"]
        if text != jsonfile.text(_manifest(files)):
            raise CorruptCheckpoint(f"{path} is not what was written")
        for name, expected in files.items():
            path = folder / name
            if Path(name).name != name or not path.is_file():  # a device would never end
                raise CorruptCheckpoint(f"{path} is not what was written")
            if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
                raise CorruptCheckpoint(f"{path} is not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read ({type(error).__name__})") from None


def newest_whole(root: Path) -> tuple[int | None, list[str]]:
    """Step of the newest checkpoint that verifies, and a line for each newer one that does not."""
    problems = []
    for step in reversed(saved_steps(root)):
        try:
            verify(step_folder(root, step))
        except CorruptCheckpoint as error:
            problems.append(str(error))
        else:
            return step, problems
    return None, problems


def read_state(folder: Path) -> Saved:
    """state.json of a verified checkpoint. Raises CorruptCheckpoint."""
    path = folder / "state.json"
    try:
        return jsonfile.read(path, Saved)
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: {error}") from None


def load(folder: Path, state: TrainState) -> dict[str, Any]:
    """Put a verified checkpoint into `state`, in place; returns state.json."""
    device = state.controller.p_aug.device
    for name, module in modules(state).items():
        module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    extra: dict[str, Any] = jsonfile.parse((folder / "state.json").read_bytes())
    for name, optimizer in optimizers(state).items():
        _restore(optimizer, load_file(folder / f"{name}.safetensors"), extra["optimizers"][name])
    for name, scaler in scalers(state).items():
        scaler.load_state_dict(extra["scalers"][name])
    controller = load_file(folder / "controller.safetensors")
    for name, value in controller.items():  # 0.1.0 wrote no tau, which was always the setting
        if name in vars(state.controller):
            setattr(state.controller, name, value.to(device))
        elif state.steering is not None:
            setattr(state.steering, name, value.to(device))
    state.step = extra["step"]
    return extra


def _restore(optimizer: Optimizer, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:  # in its memory format: a fused kernel walks both in the order of memory
            tensor = torch.empty_like(parameter).copy_(tensor)
        slots.setdefault(int(index), {})[key] = tensor
    own = [{name: group[name] for name in OWN} for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": slots, **settings})
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)
