"""The command that gives a search's trial again."""

import json
import shlex

from act_ray.config import Config
from act_ray.settings import field_names, get
from act_ray.tune.experiment import Experiment
from act_ray.tune.trials import TrialRecord
from act_ray.typed import typed


def rerun_command(experiment: Experiment, trial: TrialRecord, ran: Config | None = None) -> str:
    """For a shell; where a confirmed collapse would stop it, it is only recorded this time.

    ran: the settings that it ran with, where those are known: defaults may have changed since.
    """
    settings = rerun_settings(experiment, trial)
    planned = trial.plan.config
    if ran is not None:
        changed = {name: get(ran, name) for name in field_names() if get(ran, name) != get(planned, name)}
        changed.pop("train.threads", None)  # of the machine that it ran on
        if (planned.collapse.action, ran.collapse.action) == ("stop", "record"):  # the scheduler heeded the collapse
            changed.pop("collapse.action", None)
        settings |= changed
    if goes_past_its_collapse(trial) and planned.collapse.action == "stop":
        settings["collapse.action"] = "record"
    sets = " ".join(f"--set {quote_setting(*item)}" for item in settings.items())
    space = experiment.space.file
    base = f"--preset {space.preset}" + (f" --recipe {space.recipe}" if space.recipe else "")
    return f"{typed('train')} {base} {sets}"


def goes_past_its_collapse(trial: TrialRecord) -> bool:
    """Whether its collapse was confirmed, and is one that a run can go on from: every value was finite."""
    return trial.given_up and not isinstance((trial.flag or {}).get("value"), str)


def rerun_settings(experiment: Experiment, trial: TrialRecord) -> dict[str, object]:
    """The overrides that give the trial again."""
    return {**experiment.space.file.set, **trial.plan.values, "train.seed": trial.plan.config.train.seed}


def quote_setting(name: str, value: object) -> str:
    """NAME=VALUE as a shell takes it."""
    return shlex.quote(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
