"""The reports of a run, as logs and result.json hold them: what they must have to be believed."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from act_ray import jsonfile
from act_ray.runs.rows import MOST

Count = Annotated[int, Field(strict=True, ge=0, lt=MOST)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Score = Annotated[float, Field(strict=True)]
Number = Score | Literal["NaN", "Infinity", "-Infinity"]


class Signature(TypedDict):
    """The summary of a prune record (collapse/record.py)."""

    signature: str
    step: Count
    value: Number
    threshold: Number
    message: str
    confirmed: Count | None
    because: str | None


class Report(TypedDict):
    """After an evaluation, or at the end; `outcome` is None before."""

    step: Count
    images: Count
    score: Score | None
    best_score: Score | None
    best_step: Count | None
    seconds: Seconds
    outcome: str | None
    prune: Signature | None
    diversity: NotRequired[Number | None]
    rescues: NotRequired[Count]
    given_up: NotRequired[Count]


class Ended(TypedDict):
    """The row of a search's log that ends a trial."""

    outcome: Literal["completed", "pruned", "scheduler", "failed"]
    reason: NotRequired[str | None]
    prune: NotRequired[Signature | None]


def check(value: Any, kind: type[Any]) -> None:
    """Raises ValueError for what is no Report, no Ended, ..."""
    jsonfile.checked(value, kind)


def as_report(text: str | None) -> dict[str, Any] | None:
    """result.json; None where it is missing, torn, or something else."""
    try:
        found: dict[str, Any] | None = None if text is None else jsonfile.parse(text)
        if found is not None:
            check(found, Report)
    except ValueError:
        return None
    return found
