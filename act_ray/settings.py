"""Settings by their dotted names (`loss.w`), presets, and how a config is read, checked and written."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from act_ray.collapse.rules import CollapseConfig
from act_ray.config import Config
from act_ray.core.options import Augment
from act_ray.errors import UserError, nearest
from act_ray.files import read_text
from act_ray.yamlfile import read_yaml, write_yaml

# ---------------------------------------------------------------------------------------------- dotted names


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted name, in the order of the schema."""
    for section, outer in Config.model_fields.items():
        kind = outer.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for key, field in kind.model_fields.items():
                yield f"{section}.{key}", field


@functools.cache
def field_names() -> tuple[str, ...]:
    """All dotted names, e.g. `loss.w`."""
    return tuple(name for name, _ in fields())


def get(source: Any, name: str) -> Any:
    """A setting by its dotted name, out of a Config or of its nested plain values."""
    for part in name.split("."):
        source = source[part] if isinstance(source, Mapping) else getattr(source, part)
    return source


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"loss.w": 1} -> {"loss": {"w": 1}}. Raises UserError for a name that the config does not have."""
    values: dict[str, Any] = {}
    for name, value in dotted.items():
        if name not in field_names():
            raise UserError(f"{name}: no such setting; {nearest_setting(name)}")
        section, _, key = name.partition(".")
        values = merge(values, {section: {key: value}})
    return values


def dotted_names(values: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names of the settings in nested values, or in values that are dotted themselves."""
    for section, part in values.items():
        if isinstance(part, Mapping):
            yield from (f"{section}.{key}" for key in part)
        else:
            yield section


def nearest_setting(name: str) -> str:
    """What was meant by a wrong name; the paper's letters count as names."""
    letters = {"w_gp": "loss.gp_weight", "i_gp": "loss.gp_interval", "p_r": "augment.p_step", "k": "train.total_steps",
               "mu_p": "augment.gp_decay", "b": "train.global_batch", "eps": "schedule.t_min"}  # fmt: skip
    if (meant := letters.get(name.rpartition(".")[2].lower())) is not None:
        return f"did you mean '{meant}'?"
    return nearest(name, field_names())


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """["loss.w=0.3", ...] as given to --set -> {"loss.w": 0.3}."""
    dotted: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair}: write it as section.name=value, e.g. --set loss.w=0.3")
        dotted[name.strip()] = read_yaml(text, f"--set {pair}")
    return dotted


# ---------------------------------------------------------------------------------------------- presets


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in (files("act_ray") / "presets").iterdir() if p.suffix == ".yaml")  # type: ignore[attr-defined]


def preset_text(name: str) -> str:
    """A preset's file. Raises UserError for a name that there is none of."""
    if name not in preset_names():
        raise UserError(f"--preset {name}: no such preset; {nearest(name, preset_names())}")
    return (files("act_ray") / "presets" / f"{name}.yaml").read_text()


@functools.cache
def preset(name: str) -> Mapping[str, Any]:
    """A preset's differences from the defaults, nested. `extends:` in a preset names the one that it starts from."""
    values = read_yaml(preset_text(name), f"preset {name}")
    base = values.pop("extends", None)
    return {**merge(preset(base) if base else {}, values), "preset": name}


def with_option(dotted: Mapping[str, Any], name: str, option: str, value: object) -> dict[str, Any]:
    """Overrides with the value of an option that is short for one of them. Raises UserError where both are given."""
    if value is None:
        return {**dotted}
    if name in dotted:
        raise UserError(f"{option} {value}: given twice, also by --set {name}; leave one of them out")
    return {**dotted, name: value}


def usual_preset(dotted: Mapping[str, Any]) -> str:
    """The preset where none is named: digits, and for other images small."""
    return "digits" if dotted.get("data.path", "digits") == "digits" else "small"


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in (files("act_ray") / "recipes").iterdir() if p.suffix == ".yaml")  # type: ignore[attr-defined]


def recipe_text(name: str) -> str:
    """A recipe's file. Raises UserError for a name that there is none of."""
    if name not in recipe_names():
        raise UserError(f"--recipe {name}: no such recipe; {nearest(name, recipe_names())}")
    return (files("act_ray") / "recipes" / f"{name}.yaml").read_text()


@functools.cache
def recipe(name: str, preset_name: str | None) -> Mapping[str, Any]:
    """A recipe's differences from the defaults for a preset, nested: those for all, and its own (or its base's)."""
    parts = read_yaml(recipe_text(name), f"recipe {name}")
    values = parts["all"]
    for part in lineage(preset_name):
        values = merge(values, parts.get(part, {}))
    return {**values, "recipe": name}


def lineage(preset_name: str | None) -> list[str]:
    """A preset after those that it extends."""
    names = list[str]()
    while preset_name is not None:
        names.insert(0, preset_name)
        preset_name = read_yaml(preset_text(preset_name), f"preset {preset_name}").get("extends")
    return names


def base_values(preset_name: str | None, recipe_name: str | None) -> Mapping[str, Any]:
    """A preset's values with those of a recipe on top."""
    values = preset(preset_name) if preset_name else {}
    return values if recipe_name is None else merge(values, recipe(recipe_name, preset_name))


# ---------------------------------------------------------------------------------------------- reading and writing


def load(
    preset_name: str | None = None,
    dotted: Mapping[str, Any] | None = None,
    where: str = "config",
    recipe_name: str | None = None,
) -> Config:
    """The config of a preset, then of a recipe, with dotted overrides on top. Raises UserError."""
    return build(merge(base_values(preset_name, recipe_name), nested(dotted or {})), where)


def load_file(path: Path, dotted: Mapping[str, Any] | None = None, recipe_name: str | None = None) -> Config:
    """The config of a YAML file, such as a run's config.yaml, with dotted overrides on top. Raises UserError.

    `preset: NAME` and `recipe: NAME` in it name what it starts from; sections may be nested, or names dotted.
    """
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file" + (f"; {nearest(str(path), near)}" if near else ""))
    values = read_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of sections, as a run's config.yaml")
    given = set(dotted_names(values))
    if set(field_names()) - given == set(BEFORE):  # a whole config.yaml, of 0.1.0
        values = upgrade(values)
    if recipe_name is not None:
        recipe(recipe_name, None)  # there is one of this name
        if mine := sorted(given & {*dotted_names(recipe("authors", values.get("preset")))} - {"recipe"}):
            raise UserError(f"--recipe {recipe_name}: {path} sets {mine[0]} itself; leave out one of the two")
        values["recipe"] = recipe_name
    base = base_values(*(values[key] if isinstance(values.get(key), str) else None for key in ("preset", "recipe")))
    names = {name: value for name, value in values.items() if isinstance(name, str) and "." in name}
    values = merge({name: value for name, value in values.items() if name not in names}, nested(names))
    return build(merge(merge(base, values), nested(dotted or {})), str(path))


# What a run did of which its config.yaml, of 0.1.0, says nothing: these settings came later, with other defaults.
BEFORE = {
    "checkpoint.good": 0,
    "collapse.patience": CollapseConfig.model_fields["patience"].default,
    "collapse.steep_level": CollapseConfig.model_fields["steep_level"].default,
    "collapse.steep_share": CollapseConfig.model_fields["steep_share"].default,
    "data.decode": "ahead",
    "data.flip": False,
    "data.held_out": 0.0,
    "data.subset": None,
    "discriminator.block_out_channels": None,
    "discriminator.head": "plain",
    "train.discriminator_images": "shared",
    "train.hang_timeout": None,
    "eval.weights": ["ema"],
    "loss.lpips_resize": "area",
    "loss.lpips_clip_target": False,
    "augment.controller": "paper",
    "augment.tau_ratio": Augment.tau_ratio,
}


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run's config.yaml, which has every setting that there was, with those that came later."""
    return merge({**nested(BEFORE), "recipe": None}, values)


def build(values: Mapping[str, Any], where: str = "config") -> Config:
    """Validate nested values. Raises UserError naming each setting, its value and its bound in one line."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(explain_all(error.errors()))) from None


def explain_all(errors: Iterable[Any]) -> list[str]:
    """Each of pydantic's errors, those of a setting that may be of several kinds as one."""
    found: dict[str, str] = {}
    for error in errors:
        text = explain(error)
        name = text.partition(": ")[0]
        found[name] = f"{found[name]} or {text.partition(': ')[2].removeprefix('must be ')}" if name in found else text
    return list(found.values())


def explain(error: Any) -> str:
    """One of pydantic's errors as `loss.w = 2: must be less than or equal to 1`."""
    name = ".".join(str(part) for part in error["loc"])
    if (setting := ".".join(str(part) for part in error["loc"][:2])) in field_names():
        name = setting if isinstance(error["loc"][-1], str) else name  # pydantic adds which of several kinds it tried
    if error["type"] == "extra_forbidden":
        if name in Config.model_fields or "." in name:
            return f"{name}: no such setting; {nearest_setting(name)}"
        return f"{name}: no such setting; {nearest(name, [*field_names(), *Config.model_fields])}"
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("must be a valid tuple", "must be a list, as [A, B]").replace("Tuple should", "must")
    message = message.removesuffix(" after validation, not 0")
    if error["type"] == "value_error":  # our own validators name the setting themselves
        return message
    return f"{name} = {error['input']!r}: {message}"


def dump(config: Config) -> str:
    """The whole resolved config as YAML."""
    return write_yaml(config.model_dump(mode="json"))


# ---------------------------------------------------------------------------------------------- settings that are paths


@functools.cache
def paths() -> Mapping[str, str | None]:
    """The settings that are paths or URIs, each with the value that is a name instead, if it has one."""
    extras = {name: field.json_schema_extra for name, field in fields()}
    return {name: extra["name"] for name, extra in extras.items() if isinstance(extra, dict) and extra.get("path")}  # type: ignore[misc]


def replace_paths(values: dict[str, Any], change: Any) -> dict[str, Any]:
    """Nested plain values with `change(path)` for each path that is set (and is no name)."""
    for name, exempt in paths().items():
        path = get(values, name)
        if path is not None and path != exempt:
            values = merge(values, nested({name: change(path)}))
    return values


def absolute_paths(cfg: Config) -> Config:
    """The config with its relative paths made absolute: workers have another working folder."""
    return build(replace_paths(cfg.model_dump(), absolute))


def absolute(path: str) -> str:
    """A path of this machine, absolute; a URI as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def with_changes(cfg: Config, dotted: Mapping[str, Any], where: str) -> Config:
    """The settings with others for some dotted names. Raises UserError, naming `where`."""
    return build(merge(cfg.model_dump(mode="json"), nested(dotted)), where)


def in_words(changes: Mapping[str, Any]) -> str:
    """NAME = VALUE for each, to four digits."""
    return ", ".join(f"{name} = {f'{v:.4g}' if isinstance(v, float) else v}" for name, v in changes.items())
