"""Settings: presets, dotted names and overrides, files, and paths."""

from pathlib import Path
from typing import Any

import pytest

from act_ray import settings
from act_ray.config import Config
from act_ray.yamlfile import read_yaml, write_yaml
from tests.helpers.mistakes import refusal


def saved(cfg: Config) -> Config:
    """As a run's config.yaml is written and read."""
    return settings.build(read_yaml(settings.dump(cfg), "config.yaml"))


def overrides(*pairs: str) -> Config:
    return settings.load("digits", settings.parse_overrides(pairs))


def test_the_presets_are_all_there() -> None:
    assert settings.preset_names() == [
        "cifar10", "cifar10_16", "cifar10_aug", "digits", "fashion", "imagenet64", "lsun_cat256", "small",
    ]  # fmt: skip


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
    assert (i.loss.w, i.loss.w_mid, i.train.total_steps, i.train.precision) == (0.6, 0.2, 400_000, "fp16")
    s = settings.load("lsun_cat256")
    assert (s.optim.lr_g, s.train.global_batch, s.schedule.mu0, s.schedule.s1) == (5e-5, 640, 0.95, 150)
    assert (s.loss.w, s.loss.w_mid, s.train.total_steps, s.train.precision) == (0.6, 0.2, 800_000, "fp16")


def test_a_recipe_is_over_its_preset_and_under_what_is_set(tmp_path: Path) -> None:
    cfg = settings.load("cifar10_aug", {"schedule.levels": "paper"}, recipe_name="authors")
    assert (cfg.preset, cfg.recipe, cfg.schedule.levels, cfg.optim.beta2_d) == (
        "cifar10_aug",
        "authors",
        "paper",
        0.9318,
    )
    assert (cfg.augment.enabled, cfg.augment.p_step, cfg.eval.weights) == (True, 0.00512, ("teacher", "ema"))
    assert cfg.discriminator.block_out_channels == (128, 256, 256, 256)  # as of cifar10, which it extends
    assert saved(cfg) == cfg
    file = tmp_path / "mine.yaml"
    file.write_text("preset: cifar10\nrecipe: authors\nloss.w: 0.4\n")
    read = settings.load_file(file)
    assert (read.recipe, read.loss.w, read.schedule.levels) == ("authors", 0.4, "authors")
    assert settings.load_file(file, {}, "paper").schedule.levels == "paper"
    assert "--recipe author: no such recipe; did you mean 'authors'?" in refusal(
        lambda: settings.load("digits", recipe_name="author")
    )


def test_a_recipe_is_not_laid_over_a_file_that_sets_what_it_chooses(tmp_path: Path) -> None:
    """Nor named by a run that does something else."""
    file = tmp_path / "config.yaml"
    file.write_text(settings.dump(settings.load("digits")))
    said = refusal(settings.load_file, file, {}, "authors")
    assert said == f"--recipe authors: {file} sets augment.controller itself; leave out one of the two"
    file.write_text("preset: digits\noptim: {beta2_d: 0.9}\n")
    assert "sets optim.beta2_d itself" in refusal(settings.load_file, file, {}, "paper")


def test_a_run_of_0_1_0_keeps_what_it_did(tmp_path: Path) -> None:
    """Its config.yaml has all settings of its time; those that came later have other defaults now."""
    old = settings.load("cifar10").model_dump(mode="json")
    del old["recipe"]
    for name in settings.BEFORE:
        section, _, key = name.partition(".")
        del old[section][key]
    cfg = settings.build(settings.upgrade(old))
    (tmp_path / "config.yaml").write_text(write_yaml(old))
    assert settings.load_file(tmp_path / "config.yaml") == cfg  # also as the settings of a new run
    assert {name: settings.get(cfg, name) for name in settings.BEFORE} == {
        "checkpoint.good": 0,
        "collapse.patience": 0.25,
        "collapse.steep_level": 1.25,
        "collapse.steep_share": 0.1,
        "data.decode": "ahead",
        "data.flip": False,
        "data.held_out": 0.0,
        "data.subset": None,
        "discriminator.block_out_channels": None,
        "augment.controller": "paper",
        "augment.tau_ratio": 0.7,
        "discriminator.head": "plain",
        "train.discriminator_images": "shared",
        "train.hang_timeout": None,
        "eval.weights": ("ema",),
        "loss.lpips_resize": "area",
        "loss.lpips_clip_target": False,
    }
    new = settings.load("digits")
    assert settings.build(settings.upgrade(new.model_dump(mode="json"))) == new


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment.tau": -1}, "config: augment.tau = -1: must be greater than 0 or 'auto'"),
        ({"eval.weights": "ema"}, "config: eval.weights = 'ema': must be a list, as [A, B]"),
        ({"eval.weights": []}, "config: eval.weights = []: must have at least 1 item"),
        (
            {"augment.enabled": True, "augment.tau": "auto", "train.total_steps": 40},
            "config: augment.tau = 'auto': no gradient penalty (every loss.gp_interval = 16 steps) falls into steps 4 "
            "to 10, where L_gp is measured; give a number",
        ),
    ],
)
def test_what_a_setting_may_be_is_said_without_names_that_are_none(changes: dict[str, Any], said: str) -> None:
    assert refusal(settings.load, "digits", changes) == said


def test_unknown_preset_names_the_nearest() -> None:
    assert "did you mean 'cifar10'" in refusal(settings.load, "cifar-10")
    assert "valid: cifar10, cifar10_16, cifar10_aug, digits" in refusal(settings.load, "xyz")
    assert "no such preset" in refusal(settings.load, "../presets/digits")


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
    assert (cfg.loss.w, cfg.loss.w_mid, cfg.train.total_steps, cfg.augment.enabled) == (0.9, 0.5, 1000, True)
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


def test_all_mistakes_at_once_in_one_line() -> None:
    message = refusal(overrides, "loss.gp_weight=-1", "optim.lr_g=0")
    assert "loss.gp_weight = -1" in message
    assert "optim.lr_g = 0" in message


@pytest.mark.parametrize(
    "dotted",
    [
        {"optim.lr_g": 5e-5, "optim.lr_d": 1e-7, "loss.gp_weight": 1e-16},
        {"data.path": "1e5"},
        {"data.path": "5e-5"},
        {"data.path": "300"},
        {"data.path": "no"},
        {"data.path": "s3://bucket/a: b #c"},
        {"data.path": "Größe/数字"},
        {"loss.lpips_size": None, "train.threads": 3, "model.num_classes": 7},
        {"collapse.drift_lambda": 1e12},
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


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("loss.W_gp", "did you mean 'loss.gp_weight'?"),
        ("w_gp", "did you mean 'loss.gp_weight'?"),
        ("lr", "did you mean one of optim.lr_d, optim.lr_g?"),
        ("loss.ww", "did you mean 'loss.w'?"),
        ("qqqq", f"... ({len(settings.field_names())} in all)"),
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
