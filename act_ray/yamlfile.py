"""YAML that reads 5e-5 as a number, refuses a key given twice, and never builds anything but plain data."""

import re
from typing import Any, TextIO

import yaml

from act_ray.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-5 as a number (PyYAML wants 5.0e-5) and refuses a key given twice."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:float"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)
# Integers must win over the wider float pattern: move it behind the int resolver.
for _pairs in _Loader.yaml_implicit_resolvers.values():
    _pairs.sort(key=lambda pair: pair[0] == "tag:yaml.org,2002:float")


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what _Loader would take for a number: a folder may be called 1e5."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.MarkedYAMLError(problem=f"'{key}' is given twice", problem_mark=node.start_mark)
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str | TextIO, where: str) -> Any:
    """Parse one YAML document safely. Raises UserError with the line of a mistake."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:  # the latter two: {[1]: 2}, 2024-13-45
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def write_yaml(value: Any) -> str:
    """Plain data as YAML, in its own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)
