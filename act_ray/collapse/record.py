"""Why a run was stopped: a record that stands on its own and can be replayed to the same decision."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from act_ray import jsonfile
from act_ray.collapse.rules import DETECTOR_VERSION, CollapseConfig, first_finding
from act_ray.collapse.series import diversities, losses
from act_ray.collapse.trace import Block, Evaluation, Finding, Trace, Window

SUMMARY = ("signature", "step", "value", "threshold", "message")


@dataclass(frozen=True)
class PruneRecord:
    """One decision: what was seen, against which threshold, by which rules; `trace` is all the rules had seen.

    `evidence`, of a value that was not finite, is added by the run: the batch, and the rows before it.
    """

    signature: str
    step: int
    planned_steps: int
    value: float
    threshold: float
    message: str
    window: Window
    loss_ct_window: Window
    diversity_window: Window
    config: dict[str, Any]
    detector_version: str
    trace: dict[str, Any]
    evidence: dict[str, Any] | None = None

    def summary(self) -> dict[str, Any]:
        """What a search and a table need of it, as plain data for strict JSON."""
        out: dict[str, Any] = jsonfile.plain({name: getattr(self, name) for name in SUMMARY})
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON; what is not finite becomes "NaN", "Infinity" or "-Infinity"."""
        out: dict[str, Any] = jsonfile.plain(asdict(self))
        return out

    def to_json(self) -> str:
        """Strict JSON of `to_dict`."""
        return jsonfile.line(asdict(self))

    def with_evidence(self, evidence: dict[str, Any]) -> "PruneRecord":
        """The same record with the run's evidence."""
        return replace(self, evidence=evidence)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "PruneRecord":
        """Inverse of `to_dict`; raises ValueError when a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        data = {"evidence": None, **data}
        if set(data) != names:
            raise ValueError(f"not a prune record: missing {names - set(data)}, unknown {set(data) - names}")
        windows = {k: [(int(s), float(v)) for s, v in data[k]] for k in names if k.endswith("window")}
        numbers = {k: float(data[k]) for k in ("value", "threshold")}
        return cls(**{**data, **windows, **numbers})

    @classmethod
    def from_json(cls, text: str) -> "PruneRecord":
        """Inverse of `to_json`."""
        return cls.from_dict(json.loads(text))


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
        trace=trace.to_dict(),
    )


def replay(record: PruneRecord) -> PruneRecord:
    """Run today's rules over the recorded trace, event by event, to the first finding.

    Raises ValueError when there is none: the record was altered, or `detector_version` is not today's.
    """
    cfg, whole = CollapseConfig.model_validate(record.config), Trace.from_dict(record.trace)
    trace = Trace(whole.total_steps, whole.block_steps)
    # A block is closed before an evaluation at its last step, as in the detector.
    events: list[Block | Evaluation] = sorted([*whole.blocks, *whole.evals], key=lambda e: e.step)
    # A value that is not finite ends a run also where signatures are only recorded, or not watched at all.
    watched = events if whole.not_finite is None or cfg.action == "stop" else []
    for event in watched:
        if isinstance(event, Block):
            trace.blocks.append(event)
        else:
            trace.evals.append(event)
        if cfg.enabled and (found := first_finding(trace, cfg)) is not None:
            return make_record(found, trace, cfg)
    trace.blocks, trace.evals, trace.not_finite = whole.blocks, whole.evals, whole.not_finite
    if (found := first_finding(trace, cfg)) is not None:
        return make_record(found, trace, cfg)
    raise ValueError(
        f"the recorded observations do not lead to {record.signature} under detector version {DETECTOR_VERSION} "
        f"(recorded by {record.detector_version})"
    )
