"""Why a run was stopped: a record that stands on its own and can be replayed to the same decision."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from act_ray import jsonfile
from act_ray.collapse.rules import DETECTOR_VERSION, SIGNATURES, CollapseConfig, confirmation, first_finding
from act_ray.collapse.series import diversities, losses
from act_ray.collapse.trace import Block, Evaluation, Finding, Trace, Window

SUMMARY = ("signature", "step", "value", "threshold", "message", "confirmed", "because")


@dataclass(frozen=True)
class PruneRecord:
    """One decision: what was seen, against which threshold, by which rules; `trace` is all the rules had seen.

    `step` is that of the signature; `confirmed` that at which the run was not worth its remaining budget, and `because`
    the reason; both None of a run that is only flagged. `evidence`, of a value that was not finite, is added by the
    run: the batch, and the rows before it.
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
    confirmed: int | None = None
    because: str | None = None
    evidence: dict[str, Any] | None = None

    @property
    def finite(self) -> bool:
        """Whether what was found is a value, and not that there is none any more."""
        return math.isfinite(self.value)

    @property
    def before(self) -> int:
        """The last step whose state is from before what was found."""
        return self.window[0][0] - 1 if self.finite else self.step

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
        """Inverse of `to_dict`; raises ValueError when a field is missing, unknown, or not what it can be."""
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict):
            raise ValueError("not a prune record")
        data = {"evidence": None, "confirmed": None, "because": None, **data}
        if set(data) != names:
            raise ValueError(f"not a prune record: missing {names - set(data)}, unknown {set(data) - names}")
        record = jsonfile.checked(data, cls)
        if record.signature not in SIGNATURES or not record.window or record.planned_steps < 1:
            raise ValueError("not a prune record: no such signature, or no steps that it is of")
        CollapseConfig.model_validate(record.config)
        try:
            Trace.from_dict(record.trace)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a prune record: {type(error).__name__} in its trace") from None
        return record

    @classmethod
    def from_json(cls, text: str) -> "PruneRecord":
        """Inverse of `to_json`."""
        return cls.from_dict(jsonfile.parse(text))


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
        config=cfg.model_dump(mode="json"),
        detector_version=DETECTOR_VERSION,
        trace=trace.to_dict(),
    )


def judge(record: PruneRecord | None, trace: Trace, cfg: CollapseConfig) -> PruneRecord | None:
    """What the rules make of a trace, of which they made `record` before: None, a flag, or a confirmed collapse."""
    if record is not None and record.confirmed is not None:
        return record
    certain = first_finding(trace, cfg, certain=True)
    if certain is not None:
        return replace(make_record(certain, trace, cfg), confirmed=certain.step, because="nothing comes back from that")
    if record is None:
        found = first_finding(trace, cfg)
        if found is None:
            return None
        record = make_record(found, trace, cfg)
    why = confirmation(trace, cfg, record.step)
    now = max([b.step for b in trace.blocks[-1:]] + [e.step for e in trace.evals[-1:]])
    return record if why is None else replace(record, confirmed=now, because=why, trace=trace.to_dict())


def judge_all(whole: Trace, cfg: CollapseConfig) -> PruneRecord | None:
    """What the rules make of a trace in the end."""
    return ([None, *judgements(whole, cfg)])[-1]


def first_flag(whole: Trace, cfg: CollapseConfig) -> PruneRecord | None:
    """The first signature of all: a graver one may have taken its place since."""
    return next((found for found in judgements(whole, cfg) if found is not None), None)


def judgements(whole: Trace, cfg: CollapseConfig) -> Iterator[PruneRecord | None]:
    """What the rules make of a trace, event by event, as they came."""
    trace = Trace(whole.total_steps, whole.block_steps, gp_weight=whole.gp_weight)
    # A block is closed before an evaluation at its last step, as in the detector.
    events: list[Block | Evaluation] = sorted([*whole.blocks, *whole.evals], key=lambda e: e.step)
    found: PruneRecord | None = None
    for event in events if cfg.enabled else ():
        (trace.blocks if isinstance(event, Block) else trace.evals).append(event)  # type: ignore[arg-type]
        found = judge(found, trace, cfg)
        yield found
    if whole.not_finite is not None:
        yield judge(found if cfg.ends else None, whole, cfg)


def replay(record: PruneRecord) -> PruneRecord:
    """Run today's rules over the recorded trace, event by event, to the same decision.

    Raises ValueError when there is none: the record was altered, or `detector_version` is not today's.
    """
    found = judge_all(Trace.from_dict(record.trace), CollapseConfig.model_validate(record.config))
    same = found is not None and (found.confirmed is None) == (record.confirmed is None)
    if found is not None and (same or record.detector_version != DETECTOR_VERSION):
        return found
    raise ValueError(
        f"the recorded observations do not lead to {record.signature} under detector version {DETECTOR_VERSION} "
        f"(recorded by {record.detector_version})"
    )
