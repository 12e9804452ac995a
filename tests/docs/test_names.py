"""What docs/paper.md and docs/design.md call by its name is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "act_ray"
PAPER, DESIGN = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("paper", "design"))
NAMED = re.compile(r"`([\w/]+\.py)`: ((?:`\w+(?:\.\w+)?`(?:, )?)+)")  # `core/step.py`: `train_step`, `TrainState.step`


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """The functions, classes, attributes and constants of a module, those of its classes as Class.name."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{node.name}.")
        elif isinstance(node, ast.AnnAssign):
            yield prefix + ast.unparse(node.target)
        elif isinstance(node, ast.Assign):
            yield from (prefix + ast.unparse(target) for target in node.targets)


def test_the_paper_is_mapped_to_functions_that_are_there() -> None:
    pairs = [(path, name) for path, names in NAMED.findall(PAPER) for name in re.findall(r"`([\w.]+)`", names)]
    assert len(pairs) > 30
    for path, name in pairs:
        assert name in set(definitions(ast.parse((PACKAGE / path).read_text()).body)), f"{path}: {name}"


def test_every_module_that_is_named_is_there() -> None:
    for text in (PAPER, DESIGN):
        for path in re.findall(r"\b((?:\w+/)+\w+\.py)\b", text):
            assert (PACKAGE / path).exists() or (ROOT / path).exists() or [*PACKAGE.rglob(path)], path
    for room, modules in re.findall(r"^\| `(\w+)/` \| (.*) \|$", DESIGN, re.M):
        for module in re.findall(r"`(\w+\.py)`", modules):
            assert (PACKAGE / room / module).exists(), f"{room}/{module}"
    for room in re.findall(r"\| (\w+)  +\w", DESIGN.partition("beside them")[0]):
        assert (PACKAGE / room).is_dir(), room


def test_the_way_of_a_batch_and_of_a_trial_goes_through_functions_that_are_there() -> None:
    ways = DESIGN.partition("## A batch's way")[2].partition("## Where the house")[0]
    steps = re.findall(r"(?:^ |--> )(\w+/\w+\.py) +([\w.]+)  ", ways, re.M)
    assert len(steps) > 8
    for path, name in steps:
        found = set(definitions(ast.parse((PACKAGE / path).read_text()).body))
        assert name in found | {known.rpartition(".")[2] for known in found}, f"{path}: {name}"
