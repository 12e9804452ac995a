"""A decision of the collapse detector, and a rescue, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from act_ray.collapse.margins import margins
from act_ray.collapse.trace import Trace
from act_ray.settings import in_words

if TYPE_CHECKING:
    from act_ray.collapse.record import PruneRecord
    from act_ray.train.rescue import Rescue  # which imports torch


def describe_rescues(rescues: Sequence[Rescue]) -> Iterator[str]:
    """What a run went back for, and what was changed."""
    for count, rescue in enumerate(rescues, 1):
        changes = in_words(rescue.changes)
        yield (
            f"rescue {count}: {rescue.signature}, confirmed at step {rescue.confirmed:,}; it went back to step "
            f"{rescue.back_to:,}, with {changes}"
        )


def describe(record: PruneRecord, ended: str | None = None) -> Iterator[str]:
    """The decision in sentences; ended: that the run came to its end, and with what."""
    share = record.step / record.planned_steps
    yield f"{record.signature} at step {record.step:,} of {record.planned_steps:,} ({share:.0%}): {record.message}"
    scores = [(e.step, e.score) for e in Trace.from_dict(record.trace).evals if e.score is not None]
    if record.confirmed is None:
        yield "flagged only: its scores " + (
            "have not confirmed it so far" if ended is None else "never confirmed it" + ended
        )
    else:
        yield f"confirmed at step {record.confirmed:,}: {record.because}"
    if scores:
        best = min(scores, key=lambda pair: pair[1])
        shown = ", ".join(f"{score:.4g} at {step:,}" for step, score in scores if step >= best[0])
        yield f"scores from the best on: {shown}"
    needed = list(margins(record))
    if needed:
        yield "it would not have been so with any one of these:"
        for margin in needed:
            word = "over" if margin.needed > margin.value else "under"
            yield f"  collapse.{margin.name} {word} {margin.needed:.3g} (it is {margin.value:g})"
        if record.confirmed is not None and scores and "score" in (record.because or ""):
            yield f"  a score under {min(score for _, score in scores):.4g} after step {best[0]:,}"
    else:
        yield "no threshold alone would have changed it"


def describe_since(record: PruneRecord, best: float | None, best_step: int | None) -> str | None:
    """That the run had its best score after its collapse was confirmed, which was wrong then; None where it had not."""
    if record.confirmed is None or best is None or best_step is None or best_step <= record.confirmed:
        return None
    return f"wrongly confirmed: the run went on, and had its best score, {best:.4g}, at step {int(best_step):,}"
