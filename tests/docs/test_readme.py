"""README.md: its example of the public API runs, its commands and options are there, and so are the files it names."""

import re
import shlex
from pathlib import Path

import click
import pytest

from act_ray.cli import group
from tests.helpers.tiny_settings import TINY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LINES = re.findall(r"^act-ray .*$", README, re.M)


def test_the_example_of_the_public_api_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    budget = '"train.total_steps": 600'
    assert budget in example
    assert example.count("\n") <= 10
    monkeypatch.chdir(tmp_path)
    names = {"TINY": TINY}
    exec(example.replace(budget, "**TINY").replace("samples=500", "samples=16"), names)
    assert capsys.readouterr().out.startswith("completed ")
    assert names["images"].shape == (16, 1, 8, 8)


@pytest.mark.parametrize("line", LINES)
def test_a_command_has_the_options_that_it_is_shown_with(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    context = click.Context(group)
    command = group.get_command(context, words.pop(0))
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
    assert command is not None
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    assert not [word for word in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line) if word not in known]


def test_links_lead_somewhere() -> None:
    named = re.findall(r"\b(?:docs|act_ray|cluster|examples|search_spaces|tests)/[\w./-]*\w|CONTRIBUTING.md", README)
    assert len(set(named)) > 8
    assert not [name for name in named if not (ROOT / name).exists()]
