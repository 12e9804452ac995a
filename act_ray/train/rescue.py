"""`collapse.action = rescue`: a run whose collapse is confirmed goes back to its last good state and changes one thing.

It stays the same run, in the same folder: config.yaml keeps what was asked for, rescues.json lists what was changed
since, and rescues/1/ keeps the rows that were given up. A killed run reads rescues.json and goes on as changed.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from act_ray import jsonfile, settings
from act_ray.collapse.detector import Detector
from act_ray.collapse.drift import gp_levels
from act_ray.collapse.record import PruneRecord
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.runs import checkpoint
from act_ray.runs.folder import RESCUES, RunFolder, grid_name
from act_ray.runs.rows import rows_text

HEALTHY = 0.5  # w_gp ||grad D||^2
LOWEST = 0.1  # a discriminator with a smaller ||grad D||^2 has not begun yet

Change = Callable[[Config, Detector], dict[str, Any]]


@dataclass(frozen=True)
class Rescue:
    """One time that a run went back."""

    signature: str
    confirmed: int  # step
    back_to: int  # step; 0: from the beginning
    changes: dict[str, Any]
    seconds: float  # of training until then, over all that was given up


def read_rescues(run: RunFolder) -> list[Rescue]:
    """What was changed in a run, the first first; empty for a run that was never rescued."""
    return run.read_json(RESCUES, list[Rescue]) or []


def changed(cfg: Config, rescues: list[Rescue]) -> Config:
    """The settings that hold after these rescues."""
    for rescue in rescues:
        cfg = settings.with_changes(cfg, rescue.changes, RESCUES)
    return cfg


# ---------------------------------------------------------------------------------------------- what may be changed


def raise_penalty(cfg: Config, detector: Detector) -> dict[str, Any]:
    """w_gp that holds ||grad D||^2 at the lowest level that it had after the warm-up; three times as high at least.

    Healthy runs settle where w_gp ||grad D||^2 is about HEALTHY, and a penalty that lets it climb is far too weak: ten
    times .003 failed as .003 did, a hundred times held (docs/results.md).
    """
    levels = gp_levels(detector.trace, cfg.collapse)
    low = max(math.exp(min(level.level for level in levels)), LOWEST) if levels else math.inf
    return {"loss.gp_weight": max(3 * cfg.loss.gp_weight, HEALTHY / low) or 0.1}


def slow_discriminator(cfg: Config, detector: Detector) -> dict[str, Any]:
    """Half the discriminator's learning rate."""
    return {"optim.lr_d": 0.5 * (cfg.optim.lr_d or cfg.optim.lr_g)}


def lower_weight(cfg: Config, detector: Detector) -> dict[str, Any]:
    """w a fifth lower, and w_mid no higher than it."""
    w = 0.8 * cfg.loss.w
    return {"loss.w": w, "loss.w_mid": min(w, cfg.loss.w_mid)}


def augment_more(cfg: Config, detector: Detector) -> dict[str, Any]:
    """ACT-Aug below the L_gp that the run had before its signature, or below the tau that it has: p_aug grows."""
    if cfg.augment.enabled and cfg.augment.tau != "auto":
        return {"augment.tau": cfg.augment.tau_ratio * cfg.augment.tau}
    last = detector.record.step if detector.record else math.inf
    seen = [math.exp(b.log_gp) for b in detector.trace.blocks if b.log_gp is not None and b.step <= last]
    tau = cfg.augment.tau_ratio * cfg.loss.gp_weight * median(seen) if seen else 0.0
    return {"augment.enabled": True, "augment.tau": tau}


CHANGES: dict[str, Change] = {  # by their names in collapse.rescue_order
    "gp_weight": raise_penalty,
    "lr_d": slow_discriminator,
    "w": lower_weight,
    "p_aug": augment_more,
}


def next_change(cfg: Config, detector: Detector, tries: int) -> dict[str, Any] | None:
    """What to change after so many tries, without what the settings do not allow; None: nothing is left."""
    if not cfg.adversarial:
        return None
    order, first = cfg.collapse.rescue_order, tries % len(cfg.collapse.rescue_order)
    for name in order[first:] + order[:first]:
        changes = CHANGES[name](cfg, detector)
        try:
            settings.with_changes(cfg, changes, RESCUES)
        except UserError:
            continue
        return changes
    return None


# ---------------------------------------------------------------------------------------------- going back


def last_good(root: Path, first: PruneRecord, best: int | None) -> int:
    """The step of the checkpoint to go back to; 0: there is none.

    The scores are the witness: it is the best one. Where they have nothing to say (nothing was scored, or a value was
    suddenly not finite) it is the newest one from before the first signature. Only one that verifies.
    """
    steps = checkpoint.saved_steps(root)
    kept = [best] if first.finite and best in steps else [step for step in reversed(steps) if step <= first.before]
    for step in kept:
        try:
            checkpoint.verify(checkpoint.step_folder(root, step))
        except checkpoint.CorruptCheckpoint:
            continue
        return step
    return 0


def go_back(
    folder: RunFolder, found: PruneRecord, first: PruneRecord, best: int | None, changes: dict[str, Any], seconds: float
) -> Rescue:
    """Drop what came after the last good state. `first`: the first signature, where `found` has taken its place.

    rescues.json is written last, also on an object store: a run that is killed before it collapses again, and is
    rescued again, in the same way.
    """
    folder.pushed()  # pictures are moved on the object store, too
    steps, back_to = checkpoint.saved_steps(folder.checkpoints), last_good(folder.checkpoints, first, best)
    rescues = read_rescues(folder)
    kept = folder.path / "rescues" / str(len(rescues) + 1)
    kept.mkdir(parents=True, exist_ok=True)
    jsonfile.write(kept / "prune.json", found.to_dict())
    for name, since in (("metrics.jsonl", back_to), ("scores.jsonl", back_to + 1)):
        lost = [row for row in folder.rows(name) if row["step"] >= since]
        (kept / name).write_text(rows_text(lost))
        if name == "scores.jsonl":
            for row in lost:
                folder.move(f"samples/{grid_name(row['step'])}", kept)
    for step in steps:
        if step > back_to:
            shutil.rmtree(checkpoint.step_folder(folder.checkpoints, step))
    folder.push()
    rescue = Rescue(found.signature, found.confirmed or found.step, back_to, changes, seconds)
    folder.json(RESCUES, [asdict(one) for one in [*rescues, rescue]])
    folder.event("rescued", **asdict(rescue))
    folder.push()
    return rescue
