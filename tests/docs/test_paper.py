"""docs/paper.md against the settings: what the two recipes differ in, and that every option it names is one."""

import re
from pathlib import Path
from typing import Any

import pytest

from act_ray import settings
from act_ray.yamlfile import read_yaml

PAPER = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
ROW = re.compile(r"^\| `([a-z_0-9.]+)` \| (.*?) \| (.*?) \| (.*?) ?\|$", re.M)
OF_THE_PAPER = ("cifar10", "cifar10_aug", "imagenet64", "lsun_cat256")


def value(text: str) -> Any:
    found = read_yaml(text, "docs/paper.md")
    return tuple(found) if isinstance(found, list) else found


@pytest.mark.parametrize("preset", settings.preset_names())
def test_the_recipes_differ_in_what_the_table_says(preset: str) -> None:
    paper, authors = (settings.load(preset, recipe_name=name) for name in ("paper", "authors"))
    named = {
        name: (value(a), value(b))
        for name, a, b, where in ROW.findall(PAPER)
        if not where or preset in re.split(", ", where)
    }
    pairs = {name: (settings.get(paper, name), settings.get(authors, name)) for name in settings.field_names()}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == named
    assert (paper.recipe, authors.recipe) == ("paper", "authors")


def test_the_presets_of_the_papers_data_are_of_the_papers_recipe() -> None:
    for preset in settings.preset_names():
        assert settings.load(preset).recipe == ("paper" if preset in OF_THE_PAPER else None)
        if preset in OF_THE_PAPER:
            assert settings.load(preset) == settings.load(preset, recipe_name="paper")


def test_every_option_that_is_named_is_one() -> None:
    named = re.findall(r"`([a-z_]+\.[a-z_0-9]+)(?:=([^`]*))?`", PAPER)
    assert len(named) > 30
    for name, values in named:
        if name.endswith(".py") or name == "model.unet":
            continue
        if name.partition(".")[0] not in settings.Config.model_fields:
            continue
        assert name in settings.field_names(), name
        for text in re.split(", ", values) if values and "`" not in values else []:
            settings.load("cifar10", {name: value(text)})
