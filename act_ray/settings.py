"""Settings by their dotted names, presets, and how a config is read, checked and written."""

import functools
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.yamlfile import read_yaml, write_yaml


def preset_names() -> list[str]:
    return sorted(p.name.removesuffix(".yaml") for p in (files("act_ray") / "presets").iterdir() if p.suffix == ".yaml")  # type: ignore[attr-defined]


@functools.cache
def preset(name: str) -> Mapping[str, Any]:
    """A preset's differences from the defaults, nested. `extends:` in a preset names the one that it starts from."""
    if name not in preset_names():
        raise UserError(f"--preset {name}: no such preset; {nearest(name, preset_names())}")
    values = read_yaml((files("act_ray") / "presets" / f"{name}.yaml").read_text(), f"preset {name}")
    base = values.pop("extends", None)
    return {**merge(preset(base) if base else {}, values), "preset": name}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"loss.w": 1} -> {"loss": {"w": 1}}. Raises UserError for a name that the config does not have."""
    values: dict[str, Any] = {}
    for name, value in dotted.items():
        if name not in field_names():
            raise UserError(f"{name}: no such setting; {nearest(name, field_names())}")
        section, _, key = name.rpartition(".")
        values = merge(values, {section: {key: value}} if section else {key: value})
    return values


def field_names() -> list[str]:
    """All dotted names, e.g. `loss.w`."""
    names: list[str] = []
    for section, field in Config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += [f"{section}.{key}" for key in inner.model_fields]
    return names


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """["loss.w=0.3", ...] as given to --set -> {"loss.w": 0.3}."""
    dotted: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair}: write it as section.name=value, e.g. --set loss.w=0.3")
        dotted[name.strip()] = read_yaml(text, f"--set {pair}")
    return dotted


def build(values: Mapping[str, Any], where: str = "config") -> Config:
    """Validate nested values. Raises UserError naming each setting, its value and its bound in one line."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_explain(e) for e in error.errors())) from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting; {nearest(name, [*field_names(), *Config.model_fields])}"
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "value_error":  # our own validators name the setting themselves
        return message
    return f"{name} = {error['input']!r}: {message}"


def load(preset_name: str | None = None, dotted: Mapping[str, Any] | None = None, where: str = "config") -> Config:
    """The config of a preset with dotted overrides on top."""
    base = preset(preset_name) if preset_name else {}
    return build(merge(base, nested(dotted or {})), where)


PATHS = (
    "data.path", "loss.lpips_weights", "distill.teacher", "model.init", "discriminator.feature_weights",
    "eval.inception_weights",
)  # fmt: skip


NAMES = {"data.path": "digits", "discriminator.feature_weights": "random"}  # what is no path there


def absolute_paths(cfg: Config) -> Config:
    """The config with its relative paths made absolute: workers have another working folder."""
    values = cfg.model_dump()
    for name in PATHS:
        section, _, key = name.partition(".")
        path = values[section][key]
        if path is not None and path != NAMES.get(name) and "://" not in path:
            values[section][key] = str(Path(path).expanduser().absolute())
    return build(values)


def dump(config: Config) -> str:
    """The whole resolved config as YAML."""
    return write_yaml(config.model_dump(mode="json"))
