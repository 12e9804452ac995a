"""Search spaces: YAML with dotted config names, checked against the config before anything starts.

preset: digits
set: {train.total_steps: 600}                 # the same for every trial
trials: 8
parameters:
  loss.w: {choice: [0.3, 0.5, 0.7]}           # or uniform, loguniform [low, high]; randint [low, high); grid [...]
  optim.lr_g: {loguniform: [5e-4, 4e-3]}
constraints: ["loss.w_mid <= loss.w"]
"""

import itertools
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.yamlfile import read_yaml

Values = dict[str, Any]  # dotted name -> value
Specs = dict[str, tuple[str, list[Any]]]  # dotted name -> (kind, its values)
KINDS = ("choice", "uniform", "loguniform", "randint", "grid")
OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq,
             "!=": operator.ne}  # fmt: skip
TRIES = 2_000


class SpaceFile(BaseModel):
    """A search-space file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str
    about: str = Field("", description="what the search is for")
    set: dict[str, Any] = Field({}, description="settings that all trials share")
    parameters: dict[str, dict[str, list[Any]]] = Field(min_length=1)
    constraints: list[str] = []
    trials: int | None = Field(None, ge=1, description="null: 8, or every combination of a grid")
    search: Literal["random", "grid", "optuna"] = "random"
    scheduler: Literal["asha", "none"] = "asha"
    grace: float = Field(0.25, gt=0, le=1, description="share of the budget before ASHA may stop a trial")
    reduction: float = Field(3, gt=1, description="ASHA keeps one in so many at each rung")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _parameters(self) -> Self:
        for name, spec in self.parameters.items():
            if len(spec) != 1 or next(iter(spec)) not in KINDS:
                raise ValueError(f"parameters.{name} = {spec}: give one of {', '.join(KINDS)}")
            kind, values = next(iter(spec.items()))
            if kind in ("choice", "grid"):
                if not values:
                    raise ValueError(f"parameters.{name}.{kind}: needs at least one value")
            elif not (len(values) == 2 and all(_is_number(v) for v in values) and values[0] < values[1]):
                raise ValueError(f"parameters.{name}.{kind} = {values}: give [low, high] with low < high")
            elif kind == "loguniform" and values[0] <= 0:
                raise ValueError(f"parameters.{name}.loguniform = {values}: low must be above 0")
            elif kind == "randint" and not all(isinstance(v, int) for v in values):
                raise ValueError(f"parameters.{name}.randint = {values}: give whole numbers [low, high)")
            if self.search == "optuna" and kind == "grid":
                raise ValueError(f"parameters.{name}: grid does not go with search: optuna; use choice")
            if self.search == "grid" and kind not in ("choice", "grid"):
                raise ValueError(f"parameters.{name}: search: grid needs grid or choice, not {kind}")
        return self


@dataclass(frozen=True)
class Constraint:
    """`left op right`, where each side is a dotted config name or a number."""

    text: str
    left: str | float
    compare: Any = field(repr=False)
    right: str | float

    def holds(self, cfg: Config) -> bool:
        left, right = (get(cfg, side) if isinstance(side, str) else side for side in (self.left, self.right))
        return left is None or right is None or bool(self.compare(left, right))


@dataclass(frozen=True)
class Space:
    """A validated search space."""

    file: SpaceFile
    constraints: tuple[Constraint, ...]

    def config(self, values: Mapping[str, Any]) -> Config:
        """The trial's config. Raises UserError for values that the config refuses."""
        return settings.load(self.file.preset, {**self.file.set, **values}, "search space")

    def with_setting(self, name: str, value: Any) -> "Space":
        """The same space with one shared setting changed."""
        return replace(self, file=self.file.model_copy(update={"set": {**self.file.set, name: value}}))

    def admits(self, values: Mapping[str, Any]) -> bool:
        """Whether the config and every constraint accept the values."""
        try:
            cfg = self.config(values)
        except UserError:
            return False
        return all(constraint.holds(cfg) for constraint in self.constraints)

    @property
    def specs(self) -> Specs:
        """How each parameter is drawn."""
        return {name: next(iter(spec.items())) for name, spec in self.file.parameters.items()}

    @property
    def trials(self) -> int:
        """How many trials the search has."""
        return (self.file.trials or 8) if self.file.search == "optuna" else len(self.draw())

    def largest_budget(self) -> int:
        """Images that the longest trial sees: total_steps x global_batch at their upper ends."""
        names: list[str] = [
            name for name in ("train.total_steps", "train.global_batch") if name in self.file.parameters
        ]
        upper = {name: max(_endpoints(*next(iter(self.file.parameters[name].items())))) for name in names}
        train = self.config(upper).train
        return train.total_steps * train.global_batch

    def draw(self, trials: int | None = None) -> list[Values]:
        """The trials of a random or grid search, a function of the file and its seed alone.

        grid: all admitted combinations, first `trials` of them where that is fewer. random: independent draws, redrawn
        until admitted; parameters given as `grid` take their values in turn.
        """
        trials = trials or self.file.trials
        cells, drawn = self._cells()
        if not drawn:
            admitted = [cell for cell in cells if self.admits(cell)]
            if not admitted:
                raise UserError(f"search space: no combination passes {self._conditions}")
            return admitted[:trials]
        rng = np.random.RandomState(self.file.seed)
        return [self._redraw(cells[i % len(cells)], drawn, rng) for i in range(trials or 8)]

    def check_satisfiable(self) -> None:
        """Raise UserError for a space that nothing can come from, or nothing with one of its grid cells."""
        cells, drawn = self._cells()
        if not drawn:
            self.draw(1)
        for cell in cells if drawn else ():
            self._redraw(cell, drawn, np.random.RandomState(0))

    def _cells(self) -> tuple[list[Values], Specs]:
        """All combinations of what is crossed, and how the others are drawn."""
        specs = self.specs
        crossed = [name for name, (kind, _) in specs.items() if kind == "grid" or self.file.search == "grid"]
        cells = [dict(zip(crossed, cell, strict=True)) for cell in itertools.product(*(specs[n][1] for n in crossed))]
        return cells, {name: spec for name, spec in specs.items() if name not in crossed}

    def _redraw(self, cell: Values, drawn_by: Specs, rng: np.random.RandomState) -> Values:
        for _ in range(TRIES):
            drawn = {name: draw_value(*spec, rng) for name, spec in drawn_by.items()}
            values = {name: (cell | drawn)[name] for name in self.file.parameters}
            if self.admits(values):
                return values
        where = f" with {cell}" if cell else ""
        raise UserError(f"search space: none of {TRIES:,} draws{where} passes {self._conditions}")

    @property
    def _conditions(self) -> str:
        return f"the constraints ({', '.join(self.file.constraints) or 'none'}) and the config's own bounds"


# ---------------------------------------------------------------------------------------------- reading


def load_space(path: Path, over: Mapping[str, Any] | None = None, fixed: Mapping[str, Any] | None = None) -> Space:
    """Read and check a search space; `over` replaces its top-level fields, `fixed` adds to its `set`.

    Raises UserError for an unknown name, an endpoint that the config refuses, or constraints nothing can pass.
    """
    if not path.exists():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"--space {path}: no such file; {nearest(str(path), near) if near else 'see search_spaces/'}")
    raw = read_yaml(path.read_text(), str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a mapping with preset and parameters")
    raw = raw | {key: value for key, value in (over or {}).items() if value is not None}
    raw["set"] = {**(raw.get("set") or {}), **(fixed or {})}
    return parse_space(raw, str(path))


def parse_space(raw: Mapping[str, Any], where: str) -> Space:
    """Check a search space that was read; see load_space."""
    try:
        file = SpaceFile.model_validate(raw)
    except ValidationError as error:
        lines = []
        for e in error.errors():
            name = ".".join(map(str, e["loc"]))
            known = nearest(name, SpaceFile.model_fields) if e["type"] == "extra_forbidden" else ""
            lines.append(f"{name}: {e['msg'].removeprefix('Value error, ')} {known}".removeprefix(": ").strip())
        raise UserError(f"{where}: " + "; ".join(lines)) from None
    for name in (*file.parameters, *file.set):
        if name not in settings.field_names():
            raise UserError(f"{where}: {name}: no such setting; {nearest(name, settings.field_names())}")
    both = set(file.parameters) & set(file.set)
    if both:
        raise UserError(f"{where}: {', '.join(sorted(both))}: both searched and set; leave one out")
    for name, spec in file.parameters.items():
        for value in _endpoints(*next(iter(spec.items()))):
            _check_endpoint(file, name, value, where)
    space = Space(file, tuple(_constraint(text, where) for text in file.constraints))
    for constraint in space.constraints:
        try:
            constraint.holds(settings.load(file.preset))
        except TypeError:
            raise UserError(f"{where}: constraint '{constraint.text}': compares a number with a text") from None
    space.check_satisfiable()
    return space


def _check_endpoint(file: SpaceFile, name: str, value: Any, where: str) -> None:
    """Refuse a value that its setting never takes; whether it goes with the others is for draw() to see."""
    values = settings.merge(settings.preset(file.preset), settings.nested({**file.set, name: value}))
    try:
        Config.model_validate(values)
    except ValidationError as error:
        for e in error.errors():
            if e["type"] != "value_error" and ".".join(map(str, e["loc"][: name.count(".") + 1])) == name:
                message = e["msg"].replace("Input should be", "must be")
                raise UserError(f"{where}: parameters.{name}: {value!r}: {message}") from None
            if e["type"] != "value_error":
                raise UserError(f"{where}: {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}") from None


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
                hint = nearest(side, settings.field_names())
                raise UserError(f"{where}: constraint '{text}': {side}: no such setting; {hint}") from None
            sides.append(side)
    return Constraint(text, sides[0], OPERATORS[match[2]], sides[1])


def get(cfg: Config, name: str) -> Any:
    """A setting by its dotted name."""
    value: Any = cfg
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _endpoints(kind: str, values: list[Any]) -> list[Any]:
    return [values[0], values[1] - 1] if kind == "randint" else values


def draw_value(kind: str, values: list[Any], rng: np.random.RandomState) -> Any:
    """One value of a parameter; the same as Ray Tune's domains draw from the same generator."""
    match kind:
        case "uniform":
            return float(rng.uniform(values[0], values[1], size=1)[0])
        case "loguniform":
            return float(np.exp(rng.uniform(np.log(values[0]), np.log(values[1]), size=1))[0])
        case "randint":
            return int(rng.randint(values[0], values[1], size=1)[0])
        case _:
            return values[int(rng.choice(np.arange(len(values)), size=1)[0])]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
