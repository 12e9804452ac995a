"""What would have had to differ for a decision not to be made: the rules replayed with other thresholds."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from act_ray.collapse.record import PruneRecord, judge_all
from act_ray.collapse.rules import SIGNATURES, CollapseConfig
from act_ray.collapse.series import Watching
from act_ray.collapse.trace import Trace

REACH = 10.0  # a threshold is tried up to this factor in both directions
ROUNDS = 14  # of bisection


@dataclass(frozen=True)
class Margin:
    """A threshold, and the nearest value of it, rounded outwards, with which there would have been no such decision."""

    name: str
    value: float
    needed: float


def margins(record: PruneRecord) -> Iterator[Margin]:
    """For each threshold that would have done it alone, by replaying the recorded trace."""
    cfg = CollapseConfig.model_validate(record.config)
    names = [name for name in SIGNATURES[record.signature][1].model_fields if name not in Watching.model_fields]
    if record.confirmed is not None and record.because is not None:
        names.append("patience")
    for name in names:
        value = float(getattr(cfg, name))
        found = [
            near for factor in (REACH, 1 / REACH) if (near := _nearest(record, cfg, name, value, factor)) is not None
        ]
        if found:
            yield Margin(name, value, min(found, key=lambda needed: abs(needed - value)))


def _nearest(record: PruneRecord, cfg: CollapseConfig, name: str, value: float, factor: float) -> float | None:
    """The nearest value towards value * factor with which the decision is not made; None: it always is."""
    field = CollapseConfig.model_fields[name]
    if field.annotation is int or value == 0:
        return None
    bad, good = value, value * factor
    if _decides(record, cfg, name, good):
        return None
    for _ in range(ROUNDS):
        middle = (bad * good) ** 0.5
        bad, good = (middle, good) if _decides(record, cfg, name, middle) else (bad, middle)
    return good


def _decides(record: PruneRecord, cfg: CollapseConfig, name: str, value: float) -> bool:
    """Whether the rules with this threshold come to the same: a flag by this signature, or its confirmation."""
    try:
        changed = CollapseConfig.model_validate({**cfg.model_dump(), name: value})
    except ValidationError:
        return True  # no such setting
    found = judge_all(Trace.from_dict(record.trace), changed)
    if found is None or found.signature != record.signature:
        return False
    return record.confirmed is None or found.confirmed is not None
