"""Search-space files: where the shipped ones are, and how one is read and checked before anything starts."""

import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.files import read_text
from act_ray.tune.kinds import endpoints
from act_ray.tune.space import OPERATORS, Constraint, Space, SpaceFile
from act_ray.yamlfile import read_yaml


def shipped_spaces() -> list[str]:
    """The names of the search spaces that come with the package."""
    folder = files("act_ray") / "search_spaces"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load_space(name: str, over: Mapping[str, Any] | None = None, fixed: Mapping[str, Any] | None = None) -> Space:
    """Read and check a search space: a file, or the name of a shipped one.

    `over` replaces its top-level fields, `fixed` adds to its `set`. Raises UserError for an unknown name, an endpoint
    that the config refuses, or constraints that nothing can keep to.
    """
    text, where = space_text(name)
    raw = read_yaml(text, where)
    if not isinstance(raw, dict):
        raise UserError(f"{where}: must be a mapping with preset and parameters")
    raw = raw | {key: value for key, value in (over or {}).items() if value is not None}
    given = raw.get("set") or {}
    raw["set"] = {**given, **(fixed or {})} if isinstance(given, dict) else given
    return parse_space(raw, where)


def space_text(name: str) -> tuple[str, str]:
    """A search space's file, and what messages call it. Raises UserError naming what is near."""
    path = Path(name)
    if path.is_file():
        return read_text(path), name
    if name in shipped_spaces():
        with as_file(files("act_ray") / "search_spaces" / f"{name}.yaml") as shipped:
            return shipped.read_text(), f"search space {name}"
    if path.suffix in (".yaml", ".yml") or "/" in name:
        near = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = nearest(name, near or shipped_spaces())
        raise UserError(f"--space {name}: no such file; {hint}")
    near = [p.name for p in Path().glob("*.yaml")]
    raise UserError(
        f"--space {name}: no file, and no shipped search space; {nearest(name, [*shipped_spaces(), *near])}"
    )


def parse_space(raw: Mapping[str, Any], where: str) -> Space:
    """Check a search space that was read; see load_space."""
    try:
        file = SpaceFile.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(map(_explain, error.errors()))) from None
    for name in (*file.parameters, *file.set):
        if name not in settings.field_names():
            raise UserError(f"{where}: {name}: no such setting; {settings.nearest_setting(name)}")
    both = set(file.parameters) & set(file.set)
    if both:
        raise UserError(f"{where}: {', '.join(sorted(both))}: both searched and set; leave one out")
    for name, spec in file.parameters.items():
        for value in endpoints(*next(iter(spec.items()))):
            _check_endpoint(file, name, value, where)
    space = Space(file, tuple(_constraint(text, where) for text in file.constraints))
    for constraint in space.constraints:
        try:
            constraint.holds(settings.load(file.preset, recipe_name=file.recipe))
        except TypeError:
            raise UserError(f"{where}: constraint '{constraint.text}': compares a number with a text") from None
    try:
        space.check_satisfiable()
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('search space: ')}") from None
    return space


def _explain(error: Any) -> str:
    """One of pydantic's errors in a space file's own fields."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name}: is needed"
    if error["type"] == "extra_forbidden":
        return f"{name}: no such field; {nearest(name, SpaceFile.model_fields)}"
    return settings.explain(error)


def _check_endpoint(file: SpaceFile, name: str, value: Any, where: str) -> None:
    """Refuse a value that its setting never takes; whether it goes with the others is for draw() to see."""
    values = settings.merge(settings.base_values(file.preset, file.recipe), settings.nested({**file.set, name: value}))
    try:
        Config.model_validate(values)
    except ValidationError as error:
        for e in error.errors():
            if e["type"] != "value_error":
                own = ".".join(map(str, e["loc"][: name.count(".") + 1])) == name
                raise UserError(f"{where}: {'parameters.' if own else ''}{settings.explain(e)}") from None


def _constraint(text: str, where: str) -> Constraint:
    match = re.fullmatch(r"\s*(\S+)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*", text)
    if match is None:
        raise UserError(f"{where}: constraint '{text}': write it as NAME <= NAME (or a number)")
    sides: list[str | float] = []
    for side in match.group(1, 3):
        try:
            sides.append(float(side))
        except ValueError:
            if side not in settings.field_names():
                hint = settings.nearest_setting(side)
                raise UserError(f"{where}: constraint '{text}': {side}: no such setting; {hint}") from None
            sides.append(side)
    return Constraint(text, sides[0], OPERATORS[match[2]], sides[1])
