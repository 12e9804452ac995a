"""How a run, and how a trial of a search, can end. None, where one of these is expected: it has not ended."""

from enum import StrEnum
from typing import Any

Report = dict[str, Any]  # what the training loop yields (train/loop.py); runs/reports.py says what one must have

HALTED = "halted"  # what a trial tells its search when the storage fails: neither has ended


class RunOutcome(StrEnum):
    """Why the training loop returned."""

    COMPLETED = "completed"  # all steps are done
    STOPPED = "stopped"  # asked to: Ctrl-C, a STOP file, a scheduler; it can go on
    PRUNED = "pruned"  # it showed a signature of collapse


class TrialOutcome(StrEnum):
    """Why a trial of a search is over."""

    COMPLETED = "completed"
    PRUNED = "pruned"  # it showed a signature of collapse
    SCHEDULER = "scheduler"  # the scheduler gave its compute to others
    FAILED = "failed"  # it crashed more often than it may, or its settings do not fit
