"""Search spaces: every shipped one, what they draw, and what is refused before Ray starts."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from act_ray import settings
from act_ray.errors import UserError
from act_ray.tune.space_files import load_space, parse_space, shipped_spaces
from act_ray.yamlfile import read_yaml

ROOT = Path(__file__).parents[2]


def space(**fields: Any) -> dict[str, Any]:
    return {"preset": "digits", "parameters": {"loss.w": {"uniform": [0.1, 0.9]}}, **fields}


def test_the_folder_for_readers_is_the_one_that_ships() -> None:
    assert shipped_spaces() == sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml"))
    assert {"digits", "cifar10", "imagenet64"} <= set(shipped_spaces())


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_draws_trials_that_the_config_accepts(name: str) -> None:
    loaded = load_space(name)
    if loaded.file.search != "optuna":
        drawn = loaded.draw()
        assert len(drawn) == loaded.trials >= 3
        assert [loaded.refusal(values) for values in drawn] == [None] * len(drawn)
        assert all(values["loss.w_mid"] <= values["loss.w"] for values in drawn if "loss.w_mid" in values)


def test_the_default_space_is_what_the_project_promises() -> None:
    default = load_space("digits")
    names = {"loss.w", "loss.w_mid", "loss.gp_weight", "loss.gp_interval", "optim.lr_g", "optim.lr_d"}
    assert names <= set(default.file.parameters)
    assert 0 in default.file.parameters["loss.gp_weight"]["grid"]


def test_draws_depend_on_the_seed_alone() -> None:
    one, two = (parse_space(space(seed=7), "x").draw(5) for _ in range(2))
    assert one == two != parse_space(space(seed=8), "x").draw(5)


def test_grid_crosses_and_constraints_cut() -> None:
    raw = space(search="grid", parameters={"loss.w": {"grid": [0.2, 0.6]}, "loss.w_mid": {"grid": [0.1, 0.4]}})
    assert len(parse_space(raw, "x").draw()) == 3  # the config itself refuses w_mid > w
    cut = parse_space({**raw, "constraints": ["loss.w_mid == 0.1"]}, "x").draw()
    assert cut == [{"loss.w": 0.2, "loss.w_mid": 0.1}, {"loss.w": 0.6, "loss.w_mid": 0.1}]


def test_randint_is_half_open_and_whole() -> None:
    raw = space(parameters={"loss.gp_interval": {"randint": [1, 4]}})
    drawn = {values["loss.gp_interval"] for values in parse_space(raw, "x").draw(60)}
    assert drawn == {1, 2, 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": {"loss.v": {"choice": [1]}}}, "loss.v: no such setting; did you mean 'loss.w'?"),
        (
            {"parameters": {"loss.w": {"uniform": [0.1, 1.5]}}},
            "parameters.loss.w = 1.5: must be less than or equal to 1",
        ),
        ({"parameters": {"loss.w": {"choice": [0.1, "much"]}}}, "parameters.loss.w = 'much'"),
        ({"parameters": {"loss.w": {"uniform": [0.9, 0.1]}}}, "give [low, high] with low < high"),
        ({"parameters": {"optim.lr_g": {"loguniform": [0, 1]}}}, "low must be above 0"),
        ({"parameters": {"loss.gp_interval": {"randint": [0, 8]}}}, "parameters.loss.gp_interval = 0"),
        ({"parameters": {"loss.w": {"normal": [0, 1]}}}, "give one of choice, uniform"),
        ({"parameters": {"loss.w": {"choice": []}}}, "needs at least one value"),
        ({"parameters": {}}, "parameters"),
        ({"set": {"loss.w": 0.3}}, "both searched and set"),
        ({"set": {"train.total_steps": 0}}, "train.total_steps = 0"),
        ({"constraints": ["loss.w_mid < = loss.w"]}, "write it as NAME <= NAME"),
        ({"constraints": ["loss.w_midd <= loss.w"]}, "did you mean 'loss.w_mid'?"),
        (
            {"constraints": ["loss.w > 2"]},
            "524 fail as in constraint 'loss.w > 2', parameters.loss.w is uniform [0.1, 0.9]",
        ),
        ({"preset": "digit"}, "did you mean 'digits'?"),
        ({"trails": 3}, "did you mean 'trials'?"),
        ({"search": "grid"}, "needs grid or choice"),
    ],
)
def test_mistakes_are_refused_with_the_nearest_valid_thing(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_space(space(**change) if "parameters" not in change else {**space(), **change}, "file.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("")
    with pytest.raises(UserError, match=r"did you mean '.*digits\.yaml'"):
        load_space(str(tmp_path / "digit.yaml"))
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load_space("cifar1O")


def test_ranges_that_leave_nothing_name_their_parameters_and_a_constraint() -> None:
    raw = space(parameters={"loss.w": {"uniform": [0.1, 0.2]}, "loss.w_mid": {"uniform": [0.3, 0.5]}})
    with pytest.raises(UserError) as caught:
        parse_space(raw, "x")
    said = str(caught.value)
    assert "parameters.loss.w is uniform [0.1, 0.2]" in said
    assert "parameters.loss.w_mid is uniform [0.3, 0.5]" in said
    assert said.endswith("(let the ranges overlap, and add the constraint loss.w_mid <= loss.w)")
    with pytest.raises(UserError, match=r"loss\.w_mid is 0\.7 \(preset digits\)"):
        parse_space(space(parameters={"loss.w": {"uniform": [0.1, 0.2]}}), "x")


def test_the_readme_says_nothing_that_is_refused() -> None:
    text = (ROOT / "README.md").read_text()
    for example in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert parse_space(read_yaml(example, "README.md"), "README.md").trials > 0
    starts = ("act-ray train", "python -m act_ray.train")
    commands = [line.split("#")[0] for line in text.splitlines() if line.startswith(starts)]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command)
        preset = words[words.index("--preset") + 1] if "--preset" in words else None
        settings.load(preset, settings.parse_overrides(words[i + 1] for i, word in enumerate(words) if word == "--set"))
