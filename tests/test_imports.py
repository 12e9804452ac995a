"""Who may import what: Ray only where a file's name says so, and each room only what is below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "act_ray"
MODULES = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("ray_")]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_ray_is_loaded_only_by_modules_whose_name_says_so() -> None:
    code = (
        f"import sys, {', '.join(map(module, MODULES))}\nprint(*(n for n in sys.modules if n.split('.')[0] == 'ray'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr


# docs/design.md has a picture: each of these imports only rooms before it, and no command.
ROOMS = ("core", "collapse", "data", "metrics", "runs", "models", "generators")
APART = {("collapse", "core"), ("data", "core"), ("models", "core"), ("metrics", "core"), ("data", "collapse")}
COMMANDS = (
    "prepare", "train", "tune", "dashboard", "report", "explain", "evaluate", "sample", "edit", "figures", "export",
    "list", "weights", "doctor", "init", "auto",
)  # fmt: skip
BETWEEN_COMMANDS = {
    ("tune", "train"),
    ("tune", "dashboard"),
    ("dashboard", "tune"),
    ("dashboard", "explain"),
    ("report", "dashboard"),
    ("tune", "figures"),
    ("figures", "edit"),
    ("list", "tune"),
    ("doctor", "train"),
    ("doctor", "tune"),
    ("init", "prepare"),
    ("init", "doctor"),
    ("init", "tune"),
    *(("auto", other) for other in ("init", "doctor", "train", "tune", "evaluate", "export", "dashboard", "report")),
    ("explain", "train"),
    ("explain", "tune"),
    ("explain", "figures"),
}


@pytest.mark.parametrize("room", [*ROOMS, *COMMANDS])
def test_rooms_do_not_reach_up_or_across(room: str) -> None:
    modules = [*(PACKAGE / room).rglob("*.py")]
    assert modules
    for path in modules:
        others = {name.split(".")[1] for name in imported(path) if name.startswith("act_ray.")} - {room}
        if room in ROOMS:
            refused = {*ROOMS[ROOMS.index(room) :], *COMMANDS} | {below for above, below in APART if above == room}
        else:
            refused = {other for other in COMMANDS if (room, other) not in BETWEEN_COMMANDS}
        assert not others & refused, path


def loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_importing_the_package_is_free() -> None:
    assert not loaded("import act_ray") & {"torch", "ray", "numpy", "pydantic", "diffusers"}


def test_config_and_collapse_need_neither_torch_nor_ray() -> None:
    statement = "import act_ray.config, act_ray.collapse.detector, act_ray.collapse.record, act_ray.collapse.rules"
    assert not loaded(statement) & {"torch", "ray", "diffusers"}


def test_core_is_usable_alone() -> None:
    found = loaded("from act_ray.core import augment, consistency, diffusion, editing, losses, noise, schedule, step")
    assert not found & {"ray", "diffusers", "torch_fidelity", "pydantic", "yaml", "click"}


def test_networks_are_loaded_without_all_of_diffusers_which_still_loads_later() -> None:
    code = (
        "import sys, act_ray.models.unet as ours\n"
        "print(*(n for n in ('torchvision', 'scipy.stats', 'diffusers.models.transformers') if n in sys.modules))\n"
        "from diffusers import UNet2DConditionModel, UNet2DModel\n"
        "from diffusers.models.transformers import DualTransformer2DModel, SanaTransformer2DModel\n"
        "import diffusers.models.unets.unet_2d_blocks as blocks\n"
        "print(ours.UNet2DModel is UNet2DModel, blocks.DualTransformer2DModel is DualTransformer2DModel)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "\nTrue True\n"), ran.stderr
