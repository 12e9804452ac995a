"""How the tests are spread over processes (tests/conftest.py)."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
def test_the_tests_of_a_file_stay_in_one_process(request: pytest.FixtureRequest) -> None:
    """A pytest that pytest-xdist does not know drops the groups, and two Rays get in each other's way."""
    assert request.node.nodeid.endswith("@tests/test_groups")
