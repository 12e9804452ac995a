"""The error that ends a command without a traceback."""


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where, the bound and the nearest valid thing."""
