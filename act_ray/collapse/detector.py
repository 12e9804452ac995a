"""The detector: observations of a run in; a flag out, and later perhaps its confirmation."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from act_ray.collapse.record import PruneRecord, judge
from act_ray.collapse.rules import DETECTOR_VERSION, CollapseConfig
from act_ray.collapse.trace import Block, Evaluation, NotFinite, Trace

LONGEST = 1 / 30  # of the budget, a block: steep needs three in a tenth of it, spike eighteen in all
_KEPT = 64  # observations kept of a block: memory and checkpoints stay small however long the run is


@dataclass
class Sample:
    """Every `stride`-th of the values seen, with the stride doubled whenever more than _KEPT are held."""

    values: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, value: float) -> None:
        """Keep the value if it is its turn."""
        if self.seen % self.stride == 0:
            self.values.append(value)
        self.seen += 1
        if len(self.values) > _KEPT:
            self.values, self.stride = self.values[::2], 2 * self.stride

    def median(self) -> float | None:
        """Median of what was kept; None when nothing was seen."""
        return median(self.values) if self.values else None


class Detector:
    """Watches one run of `total_steps` for the signatures of collapse.

    The first signature is a flag, in `record`: the run may be collapsing. `confirmed` says that it is not worth its
    remaining budget, because nothing comes back from such a signature or because its scores have not improved since
    (rules.confirmation); both are latched. A value that is not finite is always confirmed, whatever the settings and
    what was found before. `gp_interval` (I_gp) is the number of steps from one penalty to the next, in which
    ||grad D||^2 swings: a block holds one, but is at most LONGEST of the budget. `gp_weight` is w_gp. Steps that go
    back count as the latest: rewind with `load_state_dict`.
    """

    version = DETECTOR_VERSION

    def __init__(
        self, cfg: CollapseConfig, total_steps: int, gp_interval: int | None = None, gp_weight: float = 0.0
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1")
        if gp_interval is not None and gp_interval < 1:
            raise ValueError(f"gp_interval={gp_interval} must be at least 1")
        self.cfg = cfg
        # No shorter than the measurements are apart: a block without one could tell nothing.
        period = min(gp_interval or 1, LONGEST * total_steps)
        self.trace = Trace(total_steps, float(max(total_steps / cfg.blocks, cfg.monitor_interval, period)))
        self.trace.gp_weight = gp_weight
        self.record: PruneRecord | None = None
        self._step = 0
        self._index = 0
        self._gp, self._loss = Sample(), Sample()

    @property
    def confirmed(self) -> bool:
        """Whether the run is not worth its remaining budget."""
        return self.record is not None and self.record.confirmed is not None

    @property
    def diverged(self) -> bool:
        """Whether a value was not finite."""
        return self.trace.not_finite is not None

    def observe(
        self, step: int, loss_ct: float | None, gp: float | None, others: Mapping[str, float] | None = None
    ) -> PruneRecord | None:
        """Take L_CT and ||grad_x D||^2 (sum over pixels, mean over the batch, without w_gp) of a step.

        None for what was not measured. `others`, such as L_G or a norm of the weights, must only be finite. Returns the
        record at the observations that lead to the flag and to its confirmation, None at all others.
        """
        self._step = max(self._step, step)
        if (bad := self._not_finite({"L_CT": loss_ct, "||grad D||^2": gp, **(others or {})})) is not None:
            return bad
        if not self._watching:
            return None
        if (found := self._close_block()) is not None:
            return found
        if loss_ct is not None:
            self._loss.add(loss_ct)
        if gp is not None:
            self._gp.add(math.log(max(gp, self.cfg.gp_floor)))  # also where it is exactly 0
        return None

    def observe_eval(self, step: int, diversity: float | None, score: float | None) -> PruneRecord | None:
        """Take the diversity of the samples and a score (Frechet distance, lower is better) after `step` steps."""
        self._step = max(self._step, step)
        if (bad := self._not_finite({"diversity": diversity, "score": score})) is not None:
            return bad
        if not self._watching:
            return None
        if (found := self._close_block()) is not None:
            return found
        self.trace.evals.append(Evaluation(self._step, diversity, score))
        return self._judge()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as plain data for strict JSON."""
        return {
            "version": self.version,
            "trace": self.trace.to_dict(),
            "step": self._step,
            "index": self._index,
            "gp": asdict(self._gp),
            "loss": asdict(self._loss),
            "record": None if self.record is None else self.record.to_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; raises ValueError for other rules, budget or block length."""
        trace = Trace.from_dict(state["trace"])
        if state["version"] == "1":  # of 0.1.0, whose blocks may be longer, and which did not know w_gp
            trace.gp_weight = self.trace.gp_weight
        else:
            theirs = (state["version"], trace.total_steps, trace.block_steps)
            ours = (self.version, self.trace.total_steps, self.trace.block_steps)
            if theirs != ours:
                raise ValueError(f"detector state of (version, steps, block) {theirs} does not fit {ours}")
        self.trace = trace
        self._step, self._index = int(state["step"]), int(state["index"])
        self._gp, self._loss = (
            Sample(list(s["values"]), int(s["stride"]), int(s["seen"])) for s in (state["gp"], state["loss"])
        )
        self.record = None if state["record"] is None else PruneRecord.from_dict(state["record"])

    @property
    def _watching(self) -> bool:
        return self.cfg.enabled and not self.confirmed

    def _not_finite(self, values: Mapping[str, float | None]) -> PruneRecord | None:
        """A value that is not finite ends the run at once, whatever the warm-up."""
        for name, value in values.items():
            if value is not None and not math.isfinite(value) and not self.diverged:
                self.trace.not_finite = NotFinite(self._step, name, float(value))
                # A run that is already to be stopped is stopped for what came first.
                if self.confirmed and self.cfg.ends:
                    return None
                self.record = judge(self.record if self.cfg.ends else None, self.trace, self.cfg)
                return self.record
        return None

    def _close_block(self) -> PruneRecord | None:
        """Close the open block once a step beyond it is seen; a block without observations leaves no trace."""
        index = int(self._step // self.trace.block_steps)
        if index == self._index:
            return None
        end = math.ceil((self._index + 1) * self.trace.block_steps)
        block = Block(end, self._gp.median(), self._loss.median())
        self._index, self._gp, self._loss = index, Sample(), Sample()
        if block.log_gp is None and block.loss_ct is None:
            return None
        self.trace.blocks.append(block)
        return self._judge()

    def _judge(self) -> PruneRecord | None:
        before, self.record = self.record, judge(self.record, self.trace, self.cfg)
        return None if self.record is before else self.record
