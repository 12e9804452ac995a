"""What a search's trials would fail for, found before Ray starts; and what the search shows of itself without Ray."""

import contextlib
from collections.abc import Iterator

from act_ray import settings
from act_ray.config import Config
from act_ray.data.shards import Say
from act_ray.errors import UserError
from act_ray.metrics.scores import resolve_features
from act_ray.train.preflight import Finding, Opened, findings, opening, raise_all
from act_ray.train.warm_start import adopt_architecture
from act_ray.tune.disk import describe_disk
from act_ray.tune.results import format_value
from act_ray.tune.schedulers import SCHEDULERS
from act_ray.tune.space import Space
from act_ray.tune.trials import plan_trial
from act_ray.yamlfile import write_yaml


def complete(space: Space) -> Space:
    """The space with absolute paths, for a search may be resumed elsewhere, and with the network of model.init.

    Raises UserError for a search over what model.init decides, or over what the score is.
    """
    searched = space.file.parameters
    if "model.init" in searched:
        raise UserError("parameters.model.init: its network is the same for all trials; make one search for each")
    if "eval.features" in searched:
        raise UserError("parameters.eval.features: scores in different features do not compare; set one for all")
    before = space.example()
    after = resolve_features(adopt_architecture(settings.absolute_paths(before), space.file.set))
    for name in searched:
        if before.model.init is not None and name.startswith("model.") and name != "model.dropout":
            raise UserError(f"parameters.{name}: the network is that of model.init; leave one of the two out")
    for name in settings.field_names():
        value = settings.get(after, name)
        if value != settings.get(before, name) and name not in searched:
            space = space.with_setting(name, list(value) if isinstance(value, tuple) else value)
    return space


def check_values(space: Space, workers: int, say: Say) -> None:
    """Raises one UserError of all that the trials would fail for on this machine.

    say: hears what opening the data for the first time takes.
    """
    raise_all(message for _, message in findings_of_search(space, workers, opening(say)))


def findings_of_search(space: Space, workers: int, opened: Opened | None = None) -> list[Finding]:
    """What train.preflight's findings() are of a run, for the trials: for each value of what has files of its own."""
    found = dict[Finding, None]()
    for cfg in _examples(space):
        found |= dict.fromkeys(findings(cfg, workers, opened))
        if cfg.eval.features == "none":
            found["settings", "eval.features = none: a search compares scores; use auto"] = None
    return list(found)


def _examples(space: Space) -> Iterator[Config]:
    """A trial, and one for each value of what has files of its own."""
    yield space.example()
    for name in (*settings.paths(), "discriminator.kind", "loss.distance", "eval.features"):
        for values in space.file.parameters.get(name, {}).values():
            for value in values:
                with contextlib.suppress(UserError):  # it goes with no other value: the space was checked as a whole
                    yield space.example({name: value})


def describe(space: Space, budget: str | None, location: str) -> Iterator[str]:
    """The lines of --dry-run: the space as YAML, and in comments its trials and what they come to."""
    yield write_yaml(space.file.model_dump(mode="json")).rstrip("\n")
    if space.file.search == "optuna":
        yield f"# {space.trials} trials, which Optuna chooses one after the other"
        steps, images = (
            space.trials * space.most("train.total_steps"),
            space.trials * space.most("train.total_steps") * space.most("train.global_batch"),
        )
    else:
        plans = [plan_trial(space, index, values) for index, values in enumerate(space.draw())]
        for plan in plans:
            values = ", ".join(f"{name} = {format_value(value)}" for name, value in plan.values.items())
            yield f"# trial {plan.name}: {values}"
        steps = sum(plan.config.train.total_steps for plan in plans)
        images = sum(plan.config.train.total_steps * plan.config.train.global_batch for plan in plans)
    yield f"# at most {steps:,} steps and {images:,} images over {space.trials} trials, a score every {_every(space)}"
    kind = SCHEDULERS[space.file.scheduler]
    yield f"# {kind.label}: {kind.about(space.plan(budget))}"
    yield from (f"# {line}" for line in describe_disk(space, location))
    yield "# nothing was started; the same command without --dry-run starts it"


def _every(space: Space) -> str:
    every = space.example().eval.every
    return "step" if every == 1 else f"{every:,} steps"
