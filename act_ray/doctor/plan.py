"""What is to be looked at: the settings of a run, or a search space."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError, nearest
from act_ray.files import read_text
from act_ray.tune.space import Space
from act_ray.tune.space_files import load_space, shipped_spaces
from act_ray.yamlfile import read_yaml


@dataclass(frozen=True)
class Plan:
    """A run, or a search.

    name: for people. cfg: of the run, or of a trial that could be drawn. workers: of the run, or of a trial; 0: none of
    Ray's. given: the dotted names that the user set.
    """

    name: str
    cfg: Config
    space: Space | None
    workers: int
    given: tuple[str, ...]

    @property
    def trials(self) -> int:
        """How many runs it is."""
        return 1 if self.space is None else self.space.trials

    @property
    def steps(self) -> int:
        """Steps of a run, of the longest where they differ."""
        return self.cfg.train.total_steps if self.space is None else self.space.most("train.total_steps")


def make_plan(
    target: str | None, space_name: str | None, overrides: tuple[str, ...], data: str | None, workers: int | None
) -> Plan:
    """The settings of a preset's name or a config file, or those of a search space. Raises UserError."""
    if target is not None and space_name is not None:
        raise UserError(f"--space {space_name}: not with {target}; look at one after the other")
    dotted = settings.with_option(settings.parse_overrides(overrides), "data.path", "--data", data)
    name = space_name or target or settings.usual_preset(dotted)
    if space_name is None and not _is_space(name):
        cfg = _config(name, dotted)
        return Plan(name, settings.absolute_paths(cfg), None, 1 if workers is None else workers, tuple(dotted))
    space = load_space(name, fixed=dotted)
    return Plan(f"search space {name}", settings.absolute_paths(space.example()), space, workers or 0, tuple(dotted))


def _is_space(name: str) -> bool:
    """A preset goes before a search space of its name; a file is one where it has parameters to search over."""
    path = Path(name)
    if path.is_file():
        content = read_yaml(read_text(path), name)
        return isinstance(content, dict) and "parameters" in content
    return name in shipped_spaces() and name not in settings.preset_names()


def _config(name: str, dotted: dict[str, Any]) -> Config:
    path = Path(name) / "config.yaml" if Path(name).is_dir() else Path(name)
    if path.is_file():
        return settings.load_file(path, dotted)
    if name in settings.preset_names():
        return settings.load(name, dotted)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        return settings.load_file(path, dotted)  # which says what is near
    raise UserError(
        f"{name}: no preset, search space or file; {nearest(name, [*settings.preset_names(), *shipped_spaces()])}"
    )


def with_network(plan: Plan) -> Plan:
    """The plan with the network of model.init, which has to be read for that. Raises UserError."""
    from act_ray.metrics.scores import resolve_features
    from act_ray.train.warm_start import adopt_architecture
    from act_ray.tune.space_checks import complete

    if plan.space is None:
        return replace(plan, cfg=resolve_features(adopt_architecture(plan.cfg, plan.given)))
    space = complete(plan.space)
    return replace(plan, space=space, cfg=space.example())
