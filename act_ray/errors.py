"""The two errors that end a command without a traceback."""


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where, the bound and the nearest valid thing."""


class Diverged(Exception):
    """Training reached a value that is not finite; `evidence` says which, where and after what."""

    def __init__(self, message: str, evidence: dict[str, object]) -> None:
        super().__init__(message)
        self.evidence = evidence
