"""`make docs`: docs/settings.md from the schema, and the pages of the public API, build/api, from its docstrings."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import act_ray
from act_ray import settings
from act_ray.config import Config

PAGE = Path(__file__).with_name("settings.md")
LICENCE_PAGE = PAGE.with_name("licences.md")
API = Path(__file__).parents[1] / "build" / "api"
HEAD = """# Settings

Made from the schema in act_ray/config.py by `make docs`; do not edit.

Change a setting with `--set NAME=VALUE`, in the `set:` or `parameters:` of a search space, or in a YAML file. A value
is written as in YAML: `true`, `null`, `1e-4`, `[64, 128]`. The defaults are the paper's settings for CIFAR-10; a
preset changes those in the table at the end.
"""
LICENCES = """# Licences

What `pip install act-ray` brings, by what the packages say of themselves; made by `make docs`, do not edit. The extras
of act-ray (`onnx`, `projected`, `dev`) are not in it.

"""
KINDS = {"int": "integer", "float": "number", "str": "text", "bool": "`true` or `false`", "dict": "mapping"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}


def page() -> str:
    """The whole of docs/settings.md."""
    return "\n".join([HEAD, *sections(), "## Presets\n", *presets()]).rstrip("\n") + "\n"


def sections() -> Iterator[str]:
    """A heading and a table for each section of the schema."""
    by_name = dict(settings.fields())
    for name, outer in Config.model_fields.items():
        if not (isinstance(outer.annotation, type) and issubclass(outer.annotation, BaseModel)):
            continue
        yield f"## {name}\n"
        yield f"{' '.join((outer.annotation.__doc__ or '').split())}\n"
        rows = [
            (f"`{setting}`", code(field.get_default(call_default_factory=True)), values(field), field.description or "")
            for setting, field in by_name.items()
            if setting.startswith(f"{name}.")
        ]
        yield table(("setting", "default", "values", "what it is"), rows)


def presets() -> Iterator[str]:
    """What each preset changes, and what its file says of it."""
    names = settings.preset_names()
    for name in names:
        comment = [line[1:].strip() for line in settings.preset_text(name).splitlines() if line.startswith("#")]
        yield f"- `{name}`: {' '.join(comment)}"
    configs, default = {name: settings.load(name) for name in names}, settings.load()
    rows = []
    for setting in settings.field_names():
        usual = settings.get(default, setting)
        found = [settings.get(cfg, setting) for cfg in configs.values()]
        if any(value != usual for value in found):
            rows.append((f"`{setting}`", code(usual), *("" if value == usual else code(value) for value in found)))
    yield "\nEmpty: the default.\n"
    yield table(("setting", "default", *names), rows)


# ---------------------------------------------------------------------------------------------- a cell


def code(value: Any) -> str:
    """A value as it is written in YAML."""
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return f"`{text}`"


def values(field: FieldInfo) -> str:
    """What a setting may be: its kind, its bounds, and whether it may be null."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("path"):
        other = f"`{extra['name']}`, or a " if extra.get("name") else ""
        return f"{other}path or URI" + (", or `null`" if _has_none(field.annotation) else "")
    return kind(field.annotation, bounds(field.metadata))


def kind(annotation: Any, limits: str = "") -> str:
    """A type in words, with its bounds."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(args[0], bounds([found for extra in args[1:] for found in getattr(extra, "metadata", [extra])]))
    if origin in (Union, UnionType):
        null = ", or `null`" if type(None) in args else ""
        return " or ".join(kind(arg, limits) for arg in args if arg is not type(None)) + null
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        return f"list; each: {kind(args[0])}"
    return f"{KINDS[(origin or annotation).__name__]} {limits}".strip()


def bounds(metadata: list[Any]) -> str:
    """Pydantic's constraints in words."""
    said = []
    for item in metadata:
        said += [f"{word} {getattr(item, name):g}" for name, word in BOUNDS.items() if hasattr(item, name)]
        if pattern := getattr(item, "pattern", None):
            said.append(f"that matches `{pattern}`")
    return " and ".join(said)


def _has_none(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines) + "\n"


# ---------------------------------------------------------------------------------------------- licences


def licences() -> str:
    """The whole of docs/licences.md: what `pip install act-ray` brings, as installed here."""
    rows = []
    for name in sorted(needed("act-ray", frozenset(), set()) - {"act-ray"}):
        found = metadata.metadata(name)
        trove = [line.split(" :: ")[-1] for line in found.get_all("Classifier", []) if line.startswith("License :: ")]
        own = found.get("License", "").strip().partition("\n")[0]
        rows.append((name, found["Version"], found.get("License-Expression") or ", ".join(trove) or own or "not said"))
    return LICENCES + table(("package", "version", "licence"), rows)


def needed(name: str, extras: frozenset[str], known: set[tuple[str, str]]) -> set[str]:
    """A package and its requirements on this machine, and theirs, with the extras that are asked for."""
    for extra in {"", *extras} - {extra for package, extra in known if package == name}:
        known.add((name, extra))
        for one in map(Requirement, metadata.requires(name) or []):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                with contextlib.suppress(metadata.PackageNotFoundError):  # not for this machine
                    needed(canonicalize_name(metadata.metadata(one.name)["Name"]), frozenset(one.extras), known)
    return {package for package, _ in known}


# ---------------------------------------------------------------------------------------------- the API's pages


def write_api(folder: Path) -> None:
    """The pages of what `act_ray` exports; a name that does not resolve is an error."""
    import pdoc

    for name in act_ray.__all__:  # pdoc does not look for what a module imports only when it is asked for
        setattr(act_ray, name, getattr(act_ray, name))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc("act_ray", output_directory=folder)


if __name__ == "__main__":
    PAGE.write_text(page())
    LICENCE_PAGE.write_text(licences())
    write_api(API)
    print(f"wrote {PAGE} and {API}/index.html")
