"""Search spaces: dotted setting names, how each is drawn, and what the trials may not combine.

preset: digits
set: {train.total_steps: 600}                 # the same for every trial
trials: 8
parameters:
  loss.w: {choice: [0.3, 0.5, 0.7]}           # or uniform, loguniform [low, high]; randint [low, high); grid [...]
  optim.lr_g: {loguniform: [5e-4, 4e-3]}
constraints: ["loss.w_mid <= loss.w"]
"""

import contextlib
import itertools
import math
import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.tune.budget import parse_budget
from act_ray.tune.kinds import KINDS, draw_value, endpoints
from act_ray.tune.schedulers import SCHEDULERS, Plan

Values = dict[str, Any]  # dotted name -> value
Specs = dict[str, tuple[str, list[Any]]]  # dotted name -> (kind, its values)
OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq,
             "!=": operator.ne}  # fmt: skip
TRIES = 2_000
MOST_TRIALS = 10_000
Search = Literal["random", "grid", "optuna"]
SEARCHES: tuple[str, ...] = get_args(Search)


class SpaceFile(BaseModel):
    """A search-space file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str
    recipe: str | None = Field(None, description="paper or authors; null: the preset's")
    about: str = Field("", description="what the search is for")
    set: dict[str, Any] = Field({}, description="settings that all trials share")
    parameters: dict[str, dict[str, list[Any]]] = Field(min_length=1)
    points: list[dict[str, Any]] = Field(
        [], description="these trials, each with a value for every parameter, not draws"
    )
    constraints: list[str] = []
    trials: int | None = Field(None, ge=1, le=MOST_TRIALS, description="null: 8, or every combination of a grid")
    search: Search = "random"
    scheduler: str = "freeze-thaw"
    objectives: list[Literal["score", "compute"]] = Field(
        ["score"], min_length=1, description="what Optuna makes small; compute: the seconds that a trial takes"
    )
    budget: str | None = Field(None, description="what the search may take, e.g. 60%, 5 trials; null: the scheduler's")
    grace: float = Field(
        0.25, gt=0, le=1, description="share of a trial's steps before ASHA or the median rule stops it"
    )
    reduction: float = Field(3, gt=1, description="ASHA keeps one in so many at each rung")
    audit_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of trials that go on after their collapse is confirmed, to see whether it was",
    )
    seed: int = Field(0, ge=0)

    @field_validator("scheduler")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULERS:
            raise ValueError(f"scheduler = '{name}': no such scheduler; {nearest(name, SCHEDULERS)}")
        return name

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
        if self.objectives != ["score"] and (self.search != "optuna" or self.scheduler != "none"):
            raise ValueError(
                f"objectives = {self.objectives}: needs search: optuna and scheduler: none; the others look at the "
                "score alone"
            )
        if self.audit_fraction and self.scheduler == "freeze-thaw":
            raise ValueError(
                f"audit_fraction = {self.audit_fraction:g}: freeze-thaw stops no trial that could go on, so there is "
                "nothing to audit; needs scheduler: asha, median or none"
            )
        if self.points and self.search == "optuna":
            raise ValueError("points: do not go with search: optuna, which chooses its own")
        for i, point in enumerate(self.points):
            if set(point) != set(self.parameters):
                raise ValueError(f"points, number {i + 1}: needs a value for each of {', '.join(self.parameters)}")
        return self


@dataclass(frozen=True)
class Constraint:
    """`left op right`, where each side is a dotted config name or a number."""

    text: str
    left: str | float
    compare: Any = field(repr=False)
    right: str | float

    def holds(self, cfg: Config) -> bool:
        """Whether the config keeps to it; a setting that is null keeps to everything."""
        left, right = (settings.get(cfg, s) if isinstance(s, str) else s for s in (self.left, self.right))
        return left is None or right is None or bool(self.compare(left, right))


@dataclass(frozen=True)
class Space:
    """A validated search space."""

    file: SpaceFile
    constraints: tuple[Constraint, ...]

    def config(self, values: Mapping[str, Any]) -> Config:
        """The config of these values. Raises UserError for values that the config refuses."""
        return settings.load(self.file.preset, {**self.file.set, **values}, "search space", self.file.recipe)

    def with_setting(self, name: str, value: Any) -> "Space":
        """The same space with one shared setting changed."""
        return replace(self, file=self.file.model_copy(update={"set": {**self.file.set, name: value}}))

    def audits(self, index: int) -> bool:
        """Whether this trial goes on after its collapse is confirmed: a function of the space's seed and the index."""
        return bool(np.random.RandomState([self.file.seed, index, 0xA0D17]).uniform() < self.file.audit_fraction)

    def refusal(self, values: Mapping[str, Any]) -> str | None:
        """Why the config or a constraint refuses the values; None: a trial may have them."""
        try:
            cfg = self.config(values)
        except UserError as error:
            return str(error).removeprefix("search space: ")
        return next((f"constraint '{c.text}'" for c in self.constraints if not c.holds(cfg)), None)

    @property
    def specs(self) -> Specs:
        """How each parameter is drawn."""
        return {name: next(iter(spec.items())) for name, spec in self.file.parameters.items()}

    @cached_property
    def trials(self) -> int:
        """How many trials the search has."""
        return (self.file.trials or 8) if self.file.search == "optuna" else len(self.draw())

    def plan(self, budget: str | None = None) -> Plan:
        """What schedulers are told; `budget` goes over the file's. Raises UserError."""
        text, file = budget or self.file.budget, self.file
        every = self.example().eval.every / self.most("train.total_steps")
        plan = Plan(self.trials, grace=file.grace, reduction=file.reduction, every=every)
        if text is None:
            return plan
        if file.scheduler != "freeze-thaw":
            raise UserError(f"--budget {text}: only with the scheduler freeze-thaw, not {file.scheduler}")
        found = parse_budget(text, "--budget" if budget else "budget")
        if found.unit == "hours":
            return replace(plan, hours=found.amount)
        sizes = [(self.most("train.total_steps"), self.most("train.global_batch"))]
        if file.search != "optuna":
            trains = [self.config(values).train for values in self.draw()]
            sizes = [(train.total_steps, train.global_batch) for train in trains]
        steps = sum(steps for steps, _ in sizes) / len(sizes)
        return replace(plan, budget=found.trials(plan.trials, steps, sum(s * b for s, b in sizes) / len(sizes)))

    def most(self, name: str) -> int:
        """The largest value that a trial can have of a setting that is a number."""
        spec = self.specs.get(name)
        found: int = settings.get(self.example(), name) if spec is None else max(endpoints(*spec))
        return found

    @cached_property
    def seed(self) -> int:
        """train.seed where it is not searched; each trial's own follows from it and the trial's index."""
        return self.example().train.seed

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self, trials: int | None = None) -> list[Values]:
        """The trials of a random or grid search, a function of the file and its seed alone.

        grid: all admitted combinations, first `trials` of them where that is fewer. random: independent draws, redrawn
        until admitted; parameters given as `grid` take their values in turn.
        """
        trials = trials or self.file.trials
        if self.file.points:
            return [dict(point) for point in self.file.points][:trials]
        cells, drawn = self._cells()
        if not drawn:
            return self._admitted(cells)[:trials]
        rng = np.random.RandomState(self.file.seed)
        return [self._redraw(cells[i % len(cells)], drawn, rng) for i in range(trials or 8)]

    def check_satisfiable(self) -> None:
        """Raise UserError for a space that nothing can come from, or nothing with one of its grid cells."""
        cells, drawn = self._cells()
        for i, point in enumerate(self.file.points):
            if (why := self.refusal(point)) is not None:
                raise UserError(f"search space: points, number {i + 1}: {why}")
        if not drawn and not self.file.points:
            self._admitted(cells)
        for cell in cells if drawn else ():
            self._redraw(cell, drawn, np.random.RandomState(0))

    def example(self, fixed: Mapping[str, Any] | None = None) -> Config:
        """The config of a trial that could be drawn, with `fixed` values for some parameters. Raises UserError."""
        fixed = fixed or {}
        if self.file.points:
            return self.config({**self.file.points[0], **fixed})
        cells, drawn = self._cells()
        drawn = {name: spec for name, spec in drawn.items() if name not in fixed}
        cells = [{**cell, **fixed} for cell in cells if all(cell.get(n, v) == v for n, v in fixed.items())]
        if not drawn:
            return self.config(self._admitted(cells)[0])
        for cell in cells[:-1]:
            with contextlib.suppress(UserError):
                return self.config(self._redraw(cell, drawn, np.random.RandomState(0)))
        return self.config(self._redraw(cells[-1], drawn, np.random.RandomState(0)))

    def _cells(self) -> tuple[list[Values], Specs]:
        """All combinations of what is crossed, and how the others are drawn."""
        specs = self.specs
        crossed = [name for name, (kind, _) in specs.items() if kind == "grid" or self.file.search == "grid"]
        if (count := math.prod(len(specs[name][1]) for name in crossed)) > MOST_TRIALS:
            raise UserError(f"search space: {count:,} combinations of a grid; at most {MOST_TRIALS:,}")
        cells = [dict(zip(crossed, cell, strict=True)) for cell in itertools.product(*(specs[n][1] for n in crossed))]
        return cells, {name: spec for name, spec in specs.items() if name not in crossed}

    def _admitted(self, cells: list[Values]) -> list[Values]:
        refusals = [self.refusal(cell) for cell in cells]
        admitted = [cell for cell, refusal in zip(cells, refusals, strict=True) if refusal is None]
        if not admitted:
            raise UserError(self._impossible(f"none of {len(cells):,} combinations", refusals))
        return admitted

    def _redraw(self, cell: Values, drawn_by: Specs, rng: np.random.RandomState) -> Values:
        refusals = list[str | None]()
        for _ in range(TRIES):
            drawn = {name: draw_value(*spec, rng) for name, spec in drawn_by.items()}
            values = {name: (cell | drawn)[name] for name in self.file.parameters}
            refusals.append(self.refusal(values))
            if refusals[-1] is None:
                return values
        where = f" with {', '.join(f'{name} = {value}' for name, value in cell.items())}" if cell else ""
        raise UserError(self._impossible(f"none of {TRIES:,} draws{where}", refusals))

    def _impossible(self, what: str, refusals: list[str | None]) -> str:
        """Why nothing can come of the space: the commonest refusals, and where their settings come from."""
        counts = Counter(_names(refusal or "") for refusal in refusals).most_common(2)
        causes = []
        for names, count in counts:
            said = next(refusal or "" for refusal in refusals if _names(refusal or "") == names)
            cause = f"{count:,} fail as in {said}" + "".join(f", {self._origin(name)}" for name in names)
            wanted = " <= ".join(names)
            if len(names) == 2 and "must not exceed" in said and wanted not in self.file.constraints:
                cause += f" (let the ranges overlap, and add the constraint {wanted})"
            causes.append(cause)
        return f"search space: {what} is valid; {'; '.join(causes)}"

    def _origin(self, name: str) -> str:
        """Where a setting's values come from."""
        if name in self.file.parameters:
            kind, values = self.specs[name]
            return f"parameters.{name} is {kind} {values}"
        if name in self.file.set:
            return f"set.{name} is {self.file.set[name]}"
        preset = settings.merge(Config().model_dump(), settings.base_values(self.file.preset, self.file.recipe))
        return f"{name} is {settings.get(preset, name)} (preset {self.file.preset})"


def _names(text: str) -> tuple[str, ...]:
    """The settings that a message names, each once."""
    words = re.findall(r"[a-z_]+\.[a-z_0-9]+", text)
    return tuple(dict.fromkeys(word for word in words if word in settings.field_names()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
