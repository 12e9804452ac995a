"""The detector: observations of a run in, at most one prune record out."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from act_ray.collapse.record import PruneRecord, make_record
from act_ray.collapse.rules import DETECTOR_VERSION, CollapseConfig, first_finding
from act_ray.collapse.trace import Block, Evaluation, NotFinite, Trace

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
    """Watches one run of `total_steps` for the signatures of collapse; the first finding is latched in `record`.

    A value that is not finite is always a finding (`diverged`), whatever the settings and what was found before.
    `gp_interval` (I_gp) is the number of steps from one penalty to the next: ||grad D||^2 swings in that period, so a
    block holds at least one. Steps that go back count as the latest: rewind with `load_state_dict`.
    """

    version = DETECTOR_VERSION

    def __init__(self, cfg: CollapseConfig, total_steps: int, gp_interval: int | None = None) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1")
        if gp_interval is not None and gp_interval < 1:
            raise ValueError(f"gp_interval={gp_interval} must be at least 1")
        self.cfg = cfg
        # No shorter than the measurements are apart: a block without one could tell nothing.
        self.trace = Trace(total_steps, float(max(total_steps / cfg.blocks, cfg.monitor_interval, gp_interval or 1)))
        self.record: PruneRecord | None = None
        self._step = 0
        self._index = 0
        self._gp, self._loss = Sample(), Sample()

    @property
    def diverged(self) -> bool:
        """Whether a value was not finite."""
        return self.trace.not_finite is not None

    def observe(
        self, step: int, loss_ct: float | None, gp: float | None, others: Mapping[str, float] | None = None
    ) -> PruneRecord | None:
        """Take L_CT and ||grad_x D||^2 (sum over pixels, mean over the batch, without w_gp) of a step.

        None for what was not measured. `others`, such as L_G or a norm of the weights, must only be finite. Returns the
        record at the observation that leads to it, None before and after.
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
        return self.cfg.enabled and self.record is None

    def _not_finite(self, values: Mapping[str, float | None]) -> PruneRecord | None:
        """A value that is not finite ends the run at once, whatever the warm-up."""
        for name, value in values.items():
            if value is not None and not math.isfinite(value) and not self.diverged:
                self.trace.not_finite = NotFinite(self._step, name, float(value))
                # A run that is already to be stopped is stopped for what came first.
                return None if self.record is not None and self.cfg.action == "stop" else self._judge()
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
        found = first_finding(self.trace, self.cfg)  # divergence, the gravest, comes first
        self.record = None if found is None else make_record(found, self.trace, self.cfg)
        return self.record
