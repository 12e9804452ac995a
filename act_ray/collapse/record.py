"""Why a run was stopped: a record that stands on its own and can be replayed to the same decision."""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from act_ray.collapse.config import CollapseConfig
from act_ray.collapse.signatures import (
    DETECTOR_VERSION,
    Block,
    Broken,
    Evaluation,
    Finding,
    Trace,
    diversities,
    judge,
    losses,
)

Pairs = list[tuple[int, float]]
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class PruneRecord:
    """One decision: what was seen, against which threshold, by which rules; `trace` is all the rules had seen."""

    signature: str
    step: int
    planned_steps: int
    value: float
    threshold: float
    message: str
    window: Pairs
    loss_ct_window: Pairs
    diversity_window: Pairs
    config: dict[str, Any]
    detector_version: str
    trace: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON; what is not finite becomes "NaN", "Infinity" or "-Infinity"."""
        out: dict[str, Any] = encode(asdict(self))
        return out

    def to_json(self) -> str:
        """Strict JSON of `to_dict`."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "PruneRecord":
        """Inverse of `to_dict`; raises ValueError when a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise ValueError(f"not a prune record: missing {names - set(data)}, unknown {set(data) - names}")
        windows = {k: [(int(s), decode(v)) for s, v in data[k]] for k in names if k.endswith("window")}
        numbers = {k: decode(data[k]) for k in ("value", "threshold")}
        return cls(**{**data, **windows, **numbers})

    @classmethod
    def from_json(cls, text: str) -> "PruneRecord":
        """Inverse of `to_json`."""
        return cls.from_dict(json.loads(text))


def encode(value: Any) -> Any:
    """The same data with floats that are not finite as strings."""
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def decode(value: float | str) -> float:
    """Inverse of `encode` for one number; raises ValueError for other strings."""
    if isinstance(value, str):
        if value not in _NOT_FINITE:
            raise ValueError(f"not a number: {value!r}")
        return _NOT_FINITE[value]
    return float(value)


def dump_trace(trace: Trace) -> dict[str, Any]:
    """The trace as plain data: blocks [step, log gp, L_CT], evals [step, diversity, score], broken [step, name, value].

    Lists keep it small: a full run has some 75 blocks.
    """
    bad = trace.broken
    return {
        "total_steps": trace.total_steps,
        "block_steps": trace.block_steps,
        "blocks": [[b.step, b.log_gp, b.loss_ct] for b in trace.blocks],
        "evals": [[e.step, e.diversity, e.score] for e in trace.evals],
        "broken": None if bad is None else [bad.step, bad.name, encode(bad.value)],
    }


def load_trace(data: dict[str, Any]) -> Trace:
    """Inverse of `dump_trace`."""
    trace = Trace(int(data["total_steps"]), float(data["block_steps"]))
    trace.blocks = [Block(*b) for b in data["blocks"]]
    trace.evals = [Evaluation(*e) for e in data["evals"]]
    if data["broken"] is not None:
        step, name, value = data["broken"]
        trace.broken = Broken(step, name, decode(value))
    return trace


def make_record(found: Finding, trace: Trace, cfg: CollapseConfig) -> PruneRecord:
    """The record of a finding, with L_CT over the same steps and the diversity so far."""
    first = found.window[0][0]
    return PruneRecord(
        signature=found.signature,
        step=found.step,
        planned_steps=trace.total_steps,
        value=found.value,
        threshold=found.threshold,
        message=found.message,
        window=list(found.window),
        loss_ct_window=[(s, v) for s, v in losses(trace) if s >= first],
        diversity_window=diversities(trace),
        config=cfg.model_dump(),
        detector_version=DETECTOR_VERSION,
        trace=dump_trace(trace),
    )


def replay(record: PruneRecord) -> PruneRecord:
    """Run today's rules over the recorded trace, event by event, to the first finding.

    Raises ValueError when there is none: the record was altered, or `detector_version` is not today's.
    """
    cfg, whole = CollapseConfig.model_validate(record.config), load_trace(record.trace)
    trace = Trace(whole.total_steps, whole.block_steps)
    # A block is closed before an evaluation at its last step, as in the detector.
    events: list[Block | Evaluation] = sorted([*whole.blocks, *whole.evals], key=lambda e: e.step)
    for event in events:
        if isinstance(event, Block):
            trace.blocks.append(event)
        else:
            trace.evals.append(event)
        if (found := judge(trace, cfg)) is not None:
            return make_record(found, trace, cfg)
    trace.broken = whole.broken
    if (found := judge(trace, cfg)) is not None:
        return make_record(found, trace, cfg)
    raise ValueError(
        f"the recorded observations do not lead to {record.signature} under detector version {DETECTOR_VERSION} "
        f"(recorded by {record.detector_version})"
    )
