"""Configuration: presets, bounds, one-line refusals, and what importing the package costs."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from act_ray import settings
from act_ray.config import Config
from act_ray.core.options import Augment, Diffusion, Loss, Schedule, Step
from act_ray.errors import UserError
from act_ray.yamlfile import read_yaml


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


def saved(cfg: Config) -> Config:
    """As a run's config.yaml is written and read."""
    return settings.build(read_yaml(settings.dump(cfg), "config.yaml"))


def overrides(*pairs: str) -> Config:
    return settings.load("digits", settings.parse_overrides(pairs))


# ---------------------------------------------------------------------------------------------- presets


def test_the_presets_are_all_there() -> None:
    assert settings.preset_names() == ["cifar10", "cifar10_aug", "digits", "imagenet64", "lsun_cat256"]


@pytest.mark.parametrize("name", settings.preset_names())
def test_every_preset_loads_and_comes_back(name: str) -> None:
    cfg = settings.load(name)
    assert cfg.preset == name
    assert saved(cfg) == cfg


def test_presets_hold_the_papers_settings() -> None:
    c = settings.load("cifar10")
    assert (c.optim.lr_g, c.train.global_batch, c.schedule.mu0, c.schedule.s0, c.schedule.s1) == (1e-4, 80, 0.9, 2, 150)
    assert (c.loss.w, c.loss.w_mid, c.loss.gp_interval, c.train.total_steps) == (0.3, 0.3, 16, 300_000)
    assert (c.train.precision, c.loss.distance, c.augment.enabled) == ("fp32", "lpips", False)
    a = settings.load("cifar10_aug")
    assert (a.augment.enabled, a.augment.tau, a.augment.p_step, a.augment.gp_decay) == (True, 0.55, 0.05, 0.93)
    assert a.model_copy(update={"preset": "cifar10", "augment": c.augment}) == c
    i = settings.load("imagenet64")
    assert (i.optim.lr_g, i.train.global_batch, i.schedule.mu0, i.schedule.s1) == (5e-5, 320, 0.95, 200)
    assert (i.loss.w, i.loss.w_mid, i.train.total_steps, i.train.precision) == (0.6, 0.2, 400_000, "bf16")
    s = settings.load("lsun_cat256")
    assert (s.optim.lr_g, s.train.global_batch, s.schedule.mu0, s.schedule.s1) == (5e-5, 640, 0.95, 150)
    assert (s.loss.w, s.loss.w_mid, s.train.total_steps, s.train.precision) == (0.6, 0.2, 800_000, "bf16")


def test_unknown_preset_names_the_nearest() -> None:
    assert "did you mean 'cifar10'" in refusal(settings.load, "cifar-10")
    assert "valid: cifar10, cifar10_aug, digits" in refusal(settings.load, "xyz")
    assert "no such preset" in refusal(settings.load, "../presets/digits")


# ---------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e5", 1e5),
        ("-2E+3", -2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("5.0e-5", 5e-5),
        ("10", 10),
        ("-3", -3),
        ("300_000", 300_000),
        ("null", None),
        ("true", True),
        ("DADD", "DADD"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("'5e-5'", "5e-5"),
        ("[16, 32]", [16, 32]),
        ("", None),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    got = read_yaml(text, "here")
    assert got == value
    assert type(got) is type(value)


def test_infinities_are_numbers_and_refused_where_they_make_no_sense() -> None:
    assert read_yaml("[.inf, -.inf]", "here") == [float("inf"), float("-inf")]
    for text in (".inf", ".nan"):
        assert "optim.lr_g" in refusal(overrides, f"optim.lr_g={text}")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3",
        "x: {a: 1, a: 1}",
        "[1",
        "a: b: c",
        "\tx: 1",
        "{[1]: 2}",
        "{{x}}: 1",
        "when: 2024-13-45",
        "0b_",
        "!!python/object/apply:os.system [ls]",
        "a: *b",
        "--- 1\n--- 2",
    ],
)
def test_bad_yaml_is_a_one_line_refusal(text: str) -> None:
    assert refusal(read_yaml, text, "space.yaml").startswith("space.yaml")


def test_duplicate_keys_are_named_with_their_line() -> None:
    assert "'w' is given twice" in refusal(read_yaml, "loss: {w: 1, w: 2}", "here")
    assert "line 3" in refusal(read_yaml, "data: 1\nloss:\n  w: 1\n  w: 2", "here")


# ---------------------------------------------------------------------------------------------- --set


def test_overrides() -> None:
    pairs = ["loss.w=0.5", "optim.lr_g=5e-5", "model.block_out_channels=[8, 16]", "data.path=a=b", "optim.lr_d=null"]
    assert settings.parse_overrides(pairs) == {
        "loss.w": 0.5,
        "optim.lr_g": 5e-5,
        "model.block_out_channels": [8, 16],
        "data.path": "a=b",
        "optim.lr_d": None,
    }
    cfg = overrides("loss.w_mid=0.5", "train.total_steps=1e3", " augment.enabled =true")
    assert (cfg.loss.w, cfg.loss.w_mid, cfg.train.total_steps, cfg.augment.enabled) == (0.7, 0.5, 1000, True)
    assert cfg.model == settings.load("digits").model  # sections are merged, not replaced


def test_overrides_that_are_not() -> None:
    assert "section.name=value" in refusal(settings.parse_overrides, ["loss.w"])
    assert "--set loss.w=[1" in refusal(settings.parse_overrides, ["loss.w=[1"])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("loss.wmid", "loss.w_mid"),
        ("optim.lrg", "optim.lr_g"),
        ("augment.p_steps", "augment.p_step"),
        ("schedul.s1", "schedule.s1"),
        ("train.batch_global", "train.global_batch"),
    ],
)
def test_unknown_names_get_the_nearest(wrong: str, right: str) -> None:
    message = refusal(overrides, f"{wrong}=1")
    assert wrong in message
    assert f"did you mean '{right}'?" in message
    section, _, key = wrong.partition(".")
    if section in Config.model_fields:
        assert f"did you mean '{right}'?" in refusal(settings.build, {section: {key: 1}})


def test_sections_are_not_settings() -> None:
    assert "loss: no such setting" in refusal(overrides, "loss=1")
    assert "did you mean 'loss'?" in refusal(settings.build, {"los": {"w": 1}})


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


def test_all_mistakes_at_once_in_one_line() -> None:
    message = refusal(overrides, "loss.gp_weight=-1", "optim.lr_g=0")
    assert "loss.gp_weight = -1" in message
    assert "optim.lr_g = 0" in message


def test_a_config_does_not_change() -> None:
    cfg = settings.load("digits")
    with pytest.raises(ValueError, match="frozen"):
        cfg.loss.w = 0.1


# ---------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize(
    "dotted",
    [
        {"optim.lr_g": 5e-5, "optim.lr_d": 1e-7, "loss.gp_weight": 1e16},
        {"data.path": "1e5"},
        {"data.path": "5e-5"},
        {"data.path": "300"},
        {"data.path": "no"},
        {"data.path": "s3://bucket/a: b #c"},
        {"data.path": "Größe/数字"},
        {"loss.lpips_size": None, "train.threads": 3, "model.num_classes": 7},
        {"collapse.drift_lambda": float("inf")},
    ],
)
def test_what_is_written_is_what_is_read(dotted: dict[str, Any]) -> None:
    cfg = settings.load("digits", dotted)
    assert saved(cfg) == cfg


@pytest.mark.parametrize("path", ["digits", "s3://bucket/a", "file:///a", "/a/b"])
def test_a_data_path_without_a_working_folder_stays(path: str) -> None:
    cfg = settings.load("digits", {"data.path": path})
    assert settings.absolute_paths(cfg) == cfg


def test_a_relative_data_path_is_made_absolute_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for path, expected in (("a/b", f"{tmp_path}/a/b"), ("~/a", "/home/me/a")):
        cfg = settings.absolute_paths(settings.load("digits", {"data.path": path, "loss.w": 0.9}))
        assert cfg == settings.load("digits", {"data.path": expected, "loss.w": 0.9})


# ---------------------------------------------------------------------------------------------- imports


def imported(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_importing_the_package_is_free() -> None:
    assert not imported("import act_ray") & {"torch", "ray", "numpy", "pydantic", "diffusers"}


def test_config_and_collapse_need_neither_torch_nor_ray() -> None:
    statement = "import act_ray.config, act_ray.collapse.detector, act_ray.collapse.record, act_ray.collapse.rules"
    assert not imported(statement) & {"torch", "ray", "diffusers"}


def test_core_is_usable_alone() -> None:
    found = imported("from act_ray.core import augment, consistency, diffusion, editing, losses, noise, schedule, step")
    assert not found & {"ray", "diffusers", "torch_fidelity", "pydantic", "yaml", "click"}


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


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("loss.W_gp", "did you mean 'loss.gp_weight'?"),
        ("w_gp", "did you mean 'loss.gp_weight'?"),
        ("lr", "did you mean one of optim.lr_d, optim.lr_g?"),
        ("loss.ww", "did you mean 'loss.w'?"),
        ("qqqq", "... (96 in all)"),
    ],
)
def test_a_wrong_name_gets_one_short_hint(wrong: str, meant: str) -> None:
    message = refusal(settings.nested, {wrong: 1})
    assert message.startswith(f"{wrong}: no such setting; ")
    assert message.endswith(meant)
    assert len(message) < 400


def test_a_config_file_is_a_preset_with_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: digits\nloss: {w: 0.9}\n")
    assert settings.load_file(file, {"train.seed": 3}) == settings.load("digits", {"loss.w": 0.9, "train.seed": 3})
    file.write_text(settings.dump(settings.load("cifar10")))
    assert settings.load_file(file) == settings.load("cifar10")
    assert f"did you mean '{file}'?" in refusal(settings.load_file, tmp_path / "mien.yaml")
    file.write_text("- 1\n")
    assert "must be a mapping" in refusal(settings.load_file, file)
