"""The table of what the injected faults did, after the last test."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    pass
