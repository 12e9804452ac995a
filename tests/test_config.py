"""The schema: bounds, settings that contradict each other, and what the training step is told."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from act_ray import settings
from act_ray.config import Config
from act_ray.core.options import Augment, Diffusion, Loss, Schedule, Step
from act_ray.yamlfile import read_yaml
from tests.helpers.mistakes import refusal


def overrides(*pairs: str) -> Config:
    return settings.load("digits", settings.parse_overrides(pairs))


def test_infinities_are_refused_where_they_make_no_sense() -> None:
    for text in (".inf", ".nan"):
        assert "optim.lr_g" in refusal(overrides, f"optim.lr_g={text}")


# ---------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    "pair",
    [
        "loss.w=1.5",
        "loss.w_mid=-0.1",
        "loss.w=a",
        "loss.w=",
        "loss.gp_interval=0",
        "loss.gp_weight=-1",
        "loss.distance=l3",
        "schedule.s0=1",
        "schedule.mu0=1",
        "schedule.t_min=0",
        "train.global_batch=7",
        "train.global_batch=0",
        "train.total_steps=0",
        "train.total_steps=1.5",
        "train.seed=-1",
        "optim.lr_g=0",
        "optim.lr_g=65536",
        "augment.tau=1e308",
        "optim.beta2_d=1",
        "augment.tau=0",
        "augment.p_step=1.1",
        "model.down=DX",
        "model.block_out_channels=[0, 16]",
        "model.block_out_channels=[16, -32]",
        "model.dropout=1",
        "collapse.blocks=9",
        "collapse.drift_ratio=.nan",
        "checkpoint.keep=1",
    ],
)
def test_out_of_bounds_is_refused_by_name(pair: str) -> None:
    name, _, value = pair.partition("=")
    message = refusal(overrides, pair)
    assert name in message
    assert str(read_yaml(value, "here") if "[" not in value else "must be greater") in message


@pytest.mark.parametrize(
    ("pairs", "names"),
    [
        (["loss.w=0.2", "loss.w_mid=0.5"], ["loss.w_mid = 0.5", "loss.w = 0.2"]),
        (["schedule.s0=20", "schedule.s1=10"], ["schedule.s0 = 20", "schedule.s1 = 10"]),
        (["schedule.t_min=9", "schedule.t_max=8"], ["schedule.t_min = 9", "schedule.t_max = 8"]),
        (["model.down=DDD"], ["model.down = 'DDD'", "2 letters"]),
        (["model.norm_num_groups=3"], ["model.block_out_channels", "norm_num_groups = 3"]),
        (["augment.enabled=true", "loss.w=0", "loss.w_mid=0"], ["augment.enabled = true", "loss.w = 0"]),
        (["augment.enabled=true", "loss.gp_weight=0"], ["augment.enabled = true", "loss.gp_weight = 0"]),
    ],
)
def test_settings_that_contradict_each_other(pairs: list[str], names: list[str]) -> None:
    message = refusal(overrides, *pairs)
    assert all(name in message for name in names)


def test_a_config_does_not_change() -> None:
    cfg = settings.load("digits")
    with pytest.raises(ValueError, match="frozen"):
        cfg.loss.w = 0.1


# ---------------------------------------------------------------------------------------------- what the step is told


def test_the_step_is_told_what_the_config_says() -> None:
    """Each field of core's options is a setting of the same name, with the same default."""
    cfg = Config()
    for section, kind in (("schedule", Schedule), ("loss", Loss), ("augment", Augment), ("diffusion", Diffusion)):
        assert getattr(cfg.step, section) == kind()
        for field in dataclasses.fields(kind):
            assert f"{section}.{field.name}" in settings.field_names()
    assert cfg.step == Step()
    changed = settings.load(
        "digits", {"loss.w": 0.9, "schedule.s1": 7, "augment.tau": 0.3, "train.total_steps": 5, "train.ema_decay": 0.5,
                   "collapse.monitor_interval": 3, "discriminator.conditional": True, "train.precision": "bf16"}
    ).step  # fmt: skip
    assert (changed.loss.w, changed.schedule.s1, changed.augment.tau, changed.total_steps) == (0.9, 7, 0.3, 5)
    assert (changed.ema_decay, changed.monitor_interval, changed.conditional) == (0.5, 3, True)
    assert changed.precision == "bf16"


def test_every_number_has_an_upper_bound() -> None:
    """One that no sane run passes: a slip of a key is refused before anything starts."""
    numbers = [(where, set(kind)) for where, kind in _kinds() if kind.get("type") in ("number", "integer")]
    assert not [where for where, bounds in numbers if not bounds & {"maximum", "exclusiveMaximum"}]


def _kinds() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kind that a setting may be, as JSON schema."""
    for section, schema in Config.model_json_schema()["$defs"].items():
        for name, field in schema["properties"].items():
            for kind in field.get("anyOf", [field]):
                yield f"{section}.{name}", kind.get("items", kind)
