"""YAML that reads 5e-5 as a number, refuses a key given twice, and never builds anything but plain data."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, TextIO

import yaml

from act_ray.errors import UserError

MOST = 1 << 18  # characters of a file, and values that it may stand for: settings are a few kB


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-5 as a number (PyYAML wants 5.0e-5) and refuses a key given twice."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:float"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
# Integers must win over the wider float pattern: move it behind the int resolver.
for _pairs in _Loader.yaml_implicit_resolvers.values():
    _pairs.sort(key=lambda pair: pair[0] == "tag:yaml.org,2002:float")


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what _Loader would take for a number: a folder may be called 1e5."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    found = dict[Any, Any]()
    for at, value in node.value:
        key = loader.construct_object(at)
        if key in found:
            raise yaml.MarkedYAMLError(problem=f"'{key}' is given twice", problem_mark=node.start_mark)
        found[key] = loader.construct_object(value, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str | TextIO, where: str) -> Any:
    """Parse one YAML document safely. Raises UserError with the line of a mistake."""
    text = text if isinstance(text, str) else text.read(MOST + 1)
    if len(text) > MOST:
        raise UserError(f"{where}: over {MOST:,} characters, which no file of settings has")
    try:
        found = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:  # the latter two: {[1]: 2}, 2024-13-45
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if next(islice(_values(found), MOST, None), None) is not None:
        raise UserError(f"{where}: stands for over {MOST:,} values, by aliases (*NAME) of aliases")
    return found


def _values(value: Any) -> Iterator[bool]:
    """One for each value within; an alias may stand for many times what the file has, or for what it is part of."""
    left = [value]
    while left:
        one = left.pop()
        yield True
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def write_yaml(value: Any) -> str:
    """Plain data as YAML, in its own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)
