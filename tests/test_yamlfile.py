"""YAML as it is read: scalars, and one-line refusals."""

from typing import Any

import pytest

from act_ray.yamlfile import read_yaml
from tests.helpers.mistakes import refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e5", 1e5),
        ("-2E+3", -2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("5.0e-5", 5e-5),
        ("10", 10),
        ("-3", -3),
        ("300_000", 300_000),
        ("null", None),
        ("true", True),
        ("DADD", "DADD"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("'5e-5'", "5e-5"),
        ("[16, 32]", [16, 32]),
        ("", None),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    got = read_yaml(text, "here")
    assert got == value
    assert type(got) is type(value)


def test_infinities_are_numbers() -> None:
    assert read_yaml("[.inf, -.inf]", "here") == [float("inf"), float("-inf")]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3",
        "x: {a: 1, a: 1}",
        "[1",
        "a: b: c",
        "\tx: 1",
        "{[1]: 2}",
        "{{x}}: 1",
        "when: 2024-13-45",
        "0b_",
        "!!python/object/apply:os.system [ls]",
        "a: *b",
        "--- 1\n--- 2",
        "[" * 5000 + "]" * 5000,
    ],
)
def test_bad_yaml_is_a_one_line_refusal(text: str) -> None:
    assert refusal(read_yaml, text, "space.yaml").startswith("space.yaml")


def test_duplicate_keys_are_named_with_their_line() -> None:
    assert "'w' is given twice" in refusal(read_yaml, "loss: {w: 1, w: 2}", "here")
    assert "line 3" in refusal(read_yaml, "data: 1\nloss:\n  w: 1\n  w: 2", "here")
