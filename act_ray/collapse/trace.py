"""What the rules see of a run: medians over blocks of its budget, and its evaluations."""

from dataclasses import dataclass, field
from typing import Any

from act_ray import jsonfile

Window = list[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Block:
    """Medians over the steps before `step` (exclusive end): log ||grad_x D||^2 without w_gp, and L_CT."""

    step: int
    log_gp: float | None
    loss_ct: float | None


@dataclass(frozen=True)
class Evaluation:
    """Diversity: mean pairwise distance of samples over that of the data. Score: a Frechet distance, lower better."""

    step: int
    diversity: float | None
    score: float | None


@dataclass(frozen=True)
class NotFinite:
    """The first value that was not finite."""

    step: int
    name: str
    value: float


@dataclass
class Trace:
    """What a run has shown so far; `block_steps` is the length of a block in steps, `gp_weight` is w_gp."""

    total_steps: int
    block_steps: float
    blocks: list[Block] = field(default_factory=list)
    evals: list[Evaluation] = field(default_factory=list)
    not_finite: NotFinite | None = None
    gp_weight: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data: blocks [step, log gp, L_CT], evals [step, diversity, score], broken [step, name, value] or None.

        Lists keep it small: a full run has some 75 blocks.
        """
        bad = self.not_finite
        return {
            "total_steps": self.total_steps,
            "block_steps": self.block_steps,
            "gp_weight": self.gp_weight,
            "blocks": [[b.step, b.log_gp, b.loss_ct] for b in self.blocks],
            "evals": [[e.step, e.diversity, e.score] for e in self.evals],
            "broken": None if bad is None else [bad.step, bad.name, jsonfile.plain(bad.value)],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Trace":
        """Inverse of `to_dict`. Raises ValueError, KeyError or TypeError for what is none."""
        rows = list[tuple[int, float | None, float | None]]
        trace = cls(int(data["total_steps"]), float(data["block_steps"]))
        if trace.total_steps < 1 or not trace.block_steps > 0:
            raise ValueError("no steps")
        trace.gp_weight = float(data.get("gp_weight", 0.0))  # 0.1.0 had none
        trace.blocks = [Block(*b) for b in jsonfile.checked(data["blocks"], rows)]
        trace.evals = [Evaluation(*e) for e in jsonfile.checked(data["evals"], rows)]
        if data["broken"] is not None:
            trace.not_finite = NotFinite(*jsonfile.checked(data["broken"], tuple[int, str, float]))
        return trace


@dataclass(frozen=True)
class Finding:
    """A signature that was met: `value` passed `threshold`; `window` is the (step, value) pairs that did it.

    `certain`: nothing comes back from it. Any other is a flag, which the scores have to confirm.
    """

    signature: str
    step: int
    value: float
    threshold: float
    message: str
    window: Window
    certain: bool = False
