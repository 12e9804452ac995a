"""Nothing that is read is run: what would run it is nowhere in the package, by the syntax tree of each module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "act_ray"
# Reads pickled batches of CIFAR with an Unpickler that imports nothing, and yamlfile has the one loader.
UNPICKLES, LOADS_YAML = "data/batches.py", "yamlfile.py"
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.unsafe_load", "yaml.full_load",
    "yaml.load_all", "yaml.unsafe_load_all", "yaml.full_load_all", "torch.jit.load", "torch.hub.load", "runpy.run_path",
}  # fmt: skip
ENDS = (".extractall", ".extract", ".unpack_archive", ".unsafe_load", ".full_load")


def problems(text: str, where: str = "") -> Iterator[str]:
    """What a module does that none may; `where`: its path in the package."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _root(alias.name) in MODULES and where != UNPICKLES)
        elif isinstance(node, ast.ImportFrom) and node.module and _root(node.module) in MODULES:
            yield from (alias.name for alias in node.names if alias.name != "UnpicklingError")
        elif isinstance(node, ast.Call):
            yield from _called(ast.unparse(node.func), node, where)


def _called(name: str, node: ast.Call, where: str) -> Iterator[str]:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if (
        name.removeprefix("builtins.") in NAMES
        or name in CALLS
        or name.endswith(ENDS)
        or (name.startswith("pickle.") and name != "pickle.UnpicklingError")
        or (name == "torch.load" and given.get("weights_only") != "True")
        or (name == "yaml.load" and (where != LOADS_YAML or given.get("Loader") != "_Loader"))
        or (name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False")
        or (name.endswith("from_pretrained") and given.get("use_safetensors") != "True")
        or given.get("shell", "False") != "False"
        or given.get("trust_remote_code", "False") != "False"
    ):
        yield name


def _root(module: str) -> str:
    return module.partition(".")[0]


def test_nothing_that_is_read_is_run() -> None:
    found = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(found) > 200
    assert {where: bad for where, text in found.items() if (bad := [*problems(text, where)])} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "import dill as d", "import joblib.numpy_pickle", "from pickle import loads",
        "from cloudpickle import UnpicklingError, load", "torch.load(path)", "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)", "yaml.load(text, Loader=_Loader)", "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)", "np.load(path)", "np.load(path, allow_pickle=True)", "eval(text)", "exec(text)",
        "compile(text, 'x', 'exec')", "__import__(name)", "builtins.eval(text)", "archive.extractall(folder)",
        "tar.extract(member)", "shutil.unpack_archive(path)", "subprocess.run(line, shell=True)", "os.system(line)",
        "subprocess.run(line, shell=flag)", "os.popen(line)", "Model.from_pretrained(path)",
    ],
)  # fmt: skip
def test_the_check_sees(line: str) -> None:
    assert [*problems(line)]


@pytest.mark.parametrize(
    "line",
    [
        "from pickle import UnpicklingError", "torch.load(path, weights_only=True)", "re.compile(pattern)",
        "np.load(path, allow_pickle=False)", "model.eval()", "subprocess.run([a], shell=False)", "zip.open(member)",
    ],
)  # fmt: skip
def test_the_check_lets_pass(line: str) -> None:
    assert not [*problems(line)]


def test_exceptions_hold_where_they_are_meant() -> None:
    assert [*problems("pickle.loads(raw)", UNPICKLES)]
    assert not [*problems("import pickle", UNPICKLES)]
    assert not [*problems("yaml.load(text, Loader=_Loader)", LOADS_YAML)]
    assert [*problems("yaml.load(text, Loader=yaml.SafeLoader)", LOADS_YAML)]
