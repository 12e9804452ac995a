"""`train --fork RUN --at STEP --set x=y`: a new run that goes on from a checkpoint of another one.

The noise and the order of images of step k are functions of (seed, k), so a fork sees what its parent saw, and without
a change it is its parent, bit for bit. lineage.json in its folder says where it comes from.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.metrics.scores import resolve_features
from act_ray.runs import checkpoint
from act_ray.runs.folder import LINEAGE, RunFolder, grid_name, read_config
from act_ray.runs.rows import rows_text
from act_ray.train.rescue import changed, read_rescues

# What a checkpoint's tensors hang on.
KEPT = ("data.path", "model.", "discriminator.", "train.method", "optim.name", "train.precision", "distill.teacher")


@dataclass(frozen=True)
class Lineage:
    """Where a fork comes from, and what is other in it."""

    parent: str
    step: int
    changes: dict[str, Any]


def read_lineage(run: RunFolder) -> Lineage | None:
    """A fork's lineage; None for a run that is none."""
    return run.read_json(LINEAGE, Lineage)


def forked_config(parent: str, at: int, changes: Mapping[str, Any]) -> Config:
    """The parent's settings with the changes.

    Raises UserError for a change that its checkpoint does not allow, where it has none of step `at`, or where the fork
    would have no step to take.
    """
    source = RunFolder(parent.rstrip("/"), scratch="views")
    cfg = read_config(source)
    if cfg is None:
        raise UserError(f"--fork {parent}: no config.yaml there; give the folder of a run, e.g. runs/NAME")
    cfg = changed(cfg, [rescue for rescue in read_rescues(source) if rescue.back_to < at])
    forked = settings.with_changes(cfg, changes, f"--fork {parent}")
    forked = resolve_features(settings.absolute_paths(forked))
    for name in settings.field_names():
        if name.startswith(KEPT) and settings.get(cfg, name) != settings.get(forked, name):
            raise UserError(
                f"--set {name}: a fork goes on with its parent's networks, optimizers and images; leave it out"
            )
    if cfg.adversarial != forked.adversarial:
        raise UserError(f"--set loss.w={forked.loss.w:g}: the checkpoint has {'a' if cfg.adversarial else 'no'} "
                        "discriminator; start a new run")  # fmt: skip
    kept = _kept(source)
    if at not in kept:
        near = min(kept, key=lambda step: abs(step - at), default=None)
        have = "it has none" if near is None else f"nearest: {near}; it has {', '.join(map(str, kept))}"
        raise UserError(f"--at {at}: {parent} has no checkpoint of that step; {have}")
    if forked.train.total_steps <= at:
        raise UserError(f"--at {at}: train.total_steps = {forked.train.total_steps:,}; nothing is left to train")
    return forked


def fork(parent: str, at: int, changes: Mapping[str, Any], location: str) -> None:
    """Make the fork's folder: the parent's checkpoint, its rows and pictures up to it, and lineage.json.

    What a fork that did not begin has left there is replaced. Raises UserError for a damaged checkpoint.
    """
    source, child = RunFolder(parent.rstrip("/"), scratch="views"), RunFolder(location)
    source.fetch_root("samples")
    best = _read_state(source, at).best
    for name in ("checkpoints", "samples"):
        shutil.rmtree(child.path / name, ignore_errors=True)
        (child.path / name).mkdir(parents=True)
    for step in {at, *([int(best[1])] if best and best[1] in _kept(source) else [])}:
        shutil.copytree(_fetched(source, step), checkpoint.step_folder(child.checkpoints, step))
    for name, last in (("metrics.jsonl", at - 1), ("scores.jsonl", at)):
        child.write(name, rows_text(row for row in source.rows(name) if row["step"] <= last))
    for row in child.rows("scores.jsonl"):
        grid = source.path / "samples" / grid_name(row["step"])
        if grid.exists():
            shutil.copy(grid, child.path / "samples")
    child.json(LINEAGE, asdict(Lineage(parent, at, dict(changes))))
    child.push()


def scored_in(run: RunFolder, step: int) -> str | None:
    """The metric of a run's last score up to `step`, where there is one that says so."""
    rows = [row for row in run.rows("scores.jsonl") if row["step"] <= step]
    return rows[-1].get("metric") if rows else None


def _read_state(source: RunFolder, step: int) -> checkpoint.Saved:
    try:
        return checkpoint.read_state(_fetched(source, step))
    except checkpoint.CorruptCheckpoint as error:
        raise UserError(f"--fork {source.location}: checkpoint damaged: {error}") from None


def _kept(source: RunFolder) -> list[int]:
    return source.checkpoint_steps() or checkpoint.saved_steps(source.checkpoints)


def _fetched(source: RunFolder, step: int) -> Path:
    """The checkpoint's folder on this machine, whole."""
    folder = checkpoint.step_folder(source.checkpoints, step)
    source.fetch(folder / checkpoint.MANIFEST)
    try:
        checkpoint.verify(folder)
    except checkpoint.CorruptCheckpoint as error:
        raise UserError(f"--fork {source.location}: checkpoint damaged: {error}") from None
    return folder
