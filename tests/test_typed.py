"""Commands as they are printed."""

import sys
from pathlib import Path

import pytest

from act_ray.typed import typed


def test_a_command_is_printed_so_that_it_can_be_typed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make tune` does not activate its environment: `python` was another one there, or none."""
    here = Path(sys.executable)
    assert typed("sample") == "python -m act_ray.sample"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(here.parents[1])
    assert typed("sample") == f"{here.relative_to(Path.cwd())} -m act_ray.sample"
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "executable", "/a b/bin/python")
    assert typed("sample", "mein modell", "-n", 4) == "'a b/bin/python' -m act_ray.sample 'mein modell' -n 4"
