"""The cluster files pass Ray's offline validation and our checks, and the checks refuse what they are there for."""

from __future__ import annotations

import copy
import functools
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from tests.helpers import cluster_checks as checks

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
AWS = checks.load(CLUSTER / "aws-a100.yaml")
ON_PREM = checks.load(CLUSTER / "on-prem.yaml")
RAYJOB = checks.load(CLUSTER / "rayjob.yaml")
RAYCLUSTER = checks.load(CLUSTER / "raycluster.yaml")
RUNTIME_ENV = checks.load(CLUSTER / "runtime_env.yaml")
README = (CLUSTER / "README.md").read_text()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
Config = dict[str, Any]


def changed(config: Config, path: str, value: Any) -> Config:
    """A copy with the key at the end of a path of words set, or deleted where `value` is `...`."""
    config = copy.deepcopy(config)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split()]
    target = functools.reduce(lambda node, key: node[key], parents, config)
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return config


def all_tune_arguments() -> list[list[str]]:
    return checks.tune_arguments(RAYJOB["spec"]["entrypoint"]) + checks.tune_arguments(README)


# ---------------------------------------------------------------------------------------------------------------- AWS
def test_ray_accepts_the_aws_file() -> None:
    prepared = checks.prepared_by_ray(AWS)
    assert prepared["head_setup_commands"] == AWS["setup_commands"] + AWS["head_setup_commands"]
    assert prepared["available_node_types"]["a100"]["max_workers"] == 4
    assert not any("nightly" in c or "ray-wheels" in c for c in prepared["worker_setup_commands"])


def test_rays_aws_bootstrap_has_nothing_to_look_up_for_profiles_and_images() -> None:
    config = checks.bootstrapped_by_ray(checks.prepared_by_ray(AWS))
    assert config["head_node"] == {}  # no default role was made
    images = {node["node_config"]["ImageId"] for node in config["available_node_types"].values()}
    assert len(images) == 1


def test_rays_aws_bootstrap_would_ask_aws_for_a_missing_profile() -> None:
    bad = changed(AWS, "available_node_types head node_config IamInstanceProfile", ...)
    with pytest.raises(AssertionError, match="would have asked AWS"):
        checks.bootstrapped_by_ray(checks.prepared_by_ray(bad))


def test_the_aws_file_has_no_problem() -> None:
    assert checks.aws_problems(AWS, ROOT) == []


def test_the_bootstrap_leaves_no_stub_behind() -> None:
    import sys

    checks.bootstrapped_by_ray(checks.prepared_by_ray(AWS))
    assert type(sys.modules.get("boto3")).__name__ in ("module", "NoneType")
    assert type(sys.modules.get("botocore")).__name__ in ("module", "NoneType")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("available_node_types a100 min_workers", 5, "max_workers"),
        ("head_node_type", "haed", "head_node_type"),
        ("available_node_types a100 max_wrokers", 4, "max_wrokers"),
        ("max_workers", "four", "four"),
    ],
)
def test_ray_refuses(path: str, value: Any, problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        checks.prepared_by_ray(changed(AWS, path, value))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("available_node_types a100 max_workers", -1, "min_workers 0 > max_workers -1"),
        ("available_node_types a100 node_config InstanceTyp", "p4d.24xlarge", "did you mean 'InstanceType'?"),
        ("available_node_types a100 node_config InstanceMarketOptions", {"MarketTyp": "spot"}, "'MarketType'?"),
        ("available_node_types a100 node_config BlockDeviceMappings 0 Ebs VolumSize", 1, "'VolumeSize'?"),
        ("available_node_types a100 node_config BlockDeviceMappings", {}, "expected a list"),
        ("available_node_types a100 node_config IamInstanceProfile", ..., "no IamInstanceProfile"),
        ("available_node_types a100 idle_timeout_s", ..., "no idle_timeout_s"),
        ("available_node_types a100 max_workers", 9, "less than the 9"),
        ("available_node_types head resources trial_slot", ..., "no trial_slot"),
        ("available_node_types head resources CPU", 8, "CPU must be 0"),
        ("available_node_types head node_config InstanceMarketOptions", {"MarketType": "spot"}, "must not be a spot"),
        ("head_node_type", "haed", "'haed' is not one of"),
        ("provider region", "us-east-1", "'us-west-2a' is not in us-east-1"),
        ("setup_commands", [], "nightly wheel"),
        (
            "setup_commands",
            ["cd /elsewhere && pip install -c constraints.txt -e ."],
            "/elsewhere is not in file_mounts",
        ),
        ("setup_commands 0", "cd /home/ray/act-ray && pip install -c constraints.tx -e .", "constraints.tx does not"),
        ("file_mounts", {"/home/ray/act-ray": "nowhere"}, "nowhere does not exist"),
        ("rsync_exclude", [], ".venv would be copied"),
        ("docker run_options", [], "no RAY_AUTH_MODE=token"),
        ("docker run_options", ["-e RAY_AUTH_MODE=token"], "brings no RAY_AUTH_TOKEN_PATH"),
        ("head_start_ray_commands", ["ray start --head"], "no --autoscaling-config"),
        ("head_start_ray_commands", ["ray stop"], "0 x `ray start`"),
    ],
)
def test_our_checks_refuse_in_the_aws_file(path: str, value: Any, problem: str) -> None:
    found = checks.aws_problems(changed(AWS, path, value), ROOT)
    assert any(problem in line for line in found), found


def test_ray_alone_lets_min_above_max_and_typing_errors_through() -> None:
    """Why our checks exist; if this fails, Ray has learnt them."""
    bad = changed(AWS, "available_node_types a100 node_config InstanceTyp", "p4d.24xlarge")
    bad = changed(bad, "available_node_types a100 min_workers", 3)
    bad = changed(bad, "available_node_types a100 max_workers", 2)
    checks.prepared_by_ray(bad)
    assert len(checks.aws_problems(bad, ROOT)) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_a_dashboard_for_everyone_needs_a_token(host: str) -> None:
    command = f"ray start --head --autoscaling-config=x --dashboard-host={host}"
    with_token = changed(AWS, "head_start_ray_commands", [command])
    assert checks.aws_problems(with_token, ROOT) == []
    found = checks.aws_problems(changed(with_token, "docker run_options", []), ROOT)
    assert any(f"listens on {host} without a token" in line for line in found)


def test_ours_is_on_loopback() -> None:
    assert "--dashboard-host=127.0.0.1" in AWS["head_start_ray_commands"][-1]


# ------------------------------------------------------------------------------------------------------------ on-prem
def test_ray_accepts_the_on_prem_file() -> None:
    prepared = checks.prepared_by_ray(ON_PREM)
    (machines,) = prepared["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == 2  # all of worker_ips
    assert prepared["worker_setup_commands"] == ON_PREM["setup_commands"] + ON_PREM["worker_setup_commands"]


def test_the_on_prem_file_has_no_problem() -> None:
    assert checks.on_prem_problems(ON_PREM, ROOT) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("provider worker_ips", ["192.0.2.10", "192.0.2.11"], "192.0.2.10 twice"),
        ("auth ssh_private_key", ..., "no ssh_private_key"),
        ("head_start_ray_commands", ["ray start --head --autoscaling-config=x"], "no --num-cpus=0"),
        ("head_start_ray_commands", ["ray start --head --autoscaling-config=x --num-cpus=0"], "no trial_slot"),
        ("docker run_options", [], "no RAY_AUTH_MODE=token"),
        ("file_mounts", {"/home/ray/act-ray": "."}, "brings no RAY_AUTH_TOKEN_PATH"),
        ("rsync_exclude", [], ".venv would be copied"),
    ],
)
def test_our_checks_refuse_in_the_on_prem_file(path: str, value: Any, problem: str) -> None:
    found = checks.on_prem_problems(changed(ON_PREM, path, value), ROOT)
    assert any(problem in line for line in found), found


def test_both_launched_clusters_have_the_same_containers() -> None:
    for key in ("file_mounts", "rsync_exclude", "rsync_filter", "setup_commands", "worker_setup_commands"):
        assert ON_PREM[key] == AWS[key]
    shared, ours = AWS["docker"], dict(ON_PREM["docker"])
    ours["run_options"] = [option for option in ours["run_options"] if not option.startswith("-v ")]
    assert ours == shared


# ----------------------------------------------------------------------------------------------------------- KubeRay
def test_ray_derives_an_autoscaling_config_from_the_rayjob() -> None:
    types = checks.derived_by_ray(RAYJOB)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["headgroup"]["resources"]["trial_slot"] == 8
    assert types["a100"]["resources"]["GPU"] == 8
    assert (types["a100"]["min_workers"], types["a100"]["max_workers"]) == (0, 4)
    assert types["a100"]["idle_timeout_s"] == 900


@pytest.mark.parametrize("resource", [RAYJOB, RAYCLUSTER], ids=["rayjob", "raycluster"])
def test_the_resources_have_no_problem(resource: Config) -> None:
    assert checks.kuberay_problems(resource) == []


def test_the_cluster_that_stays_is_the_one_of_a_job() -> None:
    assert checks.cluster_spec(RAYCLUSTER) == checks.cluster_spec(RAYJOB)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("spec entrypont", "x", "RayJob.spec: Additional properties are not allowed ('entrypont' was unexpected)"),
        ("spec rayClusterSpec rayVersoin", "x", "'rayVersoin' was unexpected"),
        ("spec rayClusterSpec authOptions mod", "token", "'mod' was unexpected"),
        ("spec rayClusterSpec authOptions mode", "tokens", "'tokens' is not one of ['disabled', 'token']"),
        ("spec rayClusterSpec autoscalerOptions idleTimeoutSecond", 1, "'idleTimeoutSecond' was unexpected"),
        ("spec rayClusterSpec headGroupSpec replicas", 1, "'replicas' was unexpected"),
        ("spec rayClusterSpec workerGroupSpecs 0 maxReplica", 1, "workerGroupSpecs[0]: Additional properties"),
        ("spec rayClusterSpec workerGroupSpecs 0 maxReplicas", 9.5, "9.5 is not of type 'integer'"),
        ("metadata name", "Act_Ray", "'Act_Ray' does not match"),
        ("apiVersion", "ray.io/v1alpha1", "'ray.io/v1' was expected"),
        ("spec rayClusterSpec workerGroupSpecs 0 template spec containers 0 volumeMount", [], "'volumeMounts'?"),
        ("spec rayClusterSpec workerGroupSpecs 0 minReplicas", 5, "minReplicas 5 > maxReplicas 4"),
        ("spec rayClusterSpec workerGroupSpecs 0 replicas", 5, "replicas 5 is not in 0..4"),
        ("spec rayClusterSpec workerGroupSpecs 0 idleTimeoutSeconds", ..., "no idleTimeoutSeconds"),
        ("spec rayClusterSpec workerGroupSpecs 0 template spec volumes", [], "no memory volume at /dev/shm"),
        ("spec rayClusterSpec workerGroupSpecs 0 template spec containers 0 image", "other", "different images"),
        (
            "spec rayClusterSpec workerGroupSpecs 0 template spec containers 0 resources requests nvidia.com/gpu",
            4,
            "request is not their limit",
        ),
        ("spec rayClusterSpec headGroupSpec rayStartParams num-cpus", "4", "num-cpus must be 0"),
        ("spec rayClusterSpec headGroupSpec rayStartParams num-cpus", 0, "0 is not of type 'string'"),
        ("spec rayClusterSpec headGroupSpec rayStartParams resources", ..., "no trial_slot"),
        ("spec rayClusterSpec authOptions", ..., "listens on 0.0.0.0 without"),
        ("spec rayClusterSpec authOptions mode", "disabled", "listens on 0.0.0.0 without"),
        ("spec rayClusterSpec autoscalerOptions version", ..., "must be v2"),
        ("spec rayClusterSpec enableInTreeAutoscaling", False, "must be true"),
        ("spec shutdownAfterJobFinishes", False, "outlives its job"),
        ("kind", "RayCluster", "'entrypoint'"),
    ],
)
def test_our_checks_refuse_in_the_rayjob(path: str, value: Any, problem: str) -> None:
    found = checks.kuberay_problems(changed(RAYJOB, path, value))
    assert any(problem in line for line in found), found


def test_leaving_the_dashboard_host_out_is_no_way_around_the_token() -> None:
    bad = changed(RAYJOB, "spec rayClusterSpec headGroupSpec rayStartParams dashboard-host", ...)
    found = checks.kuberay_problems(changed(bad, "spec rayClusterSpec authOptions", ...))
    assert any("0.0.0.0 without" in line for line in found)


# ------------------------------------------------------------------------------------- what the files agree on
def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: 1\nb: {c: 1, c: 2}\n")
    with pytest.raises(ValueError, match="c given twice"):
        checks.load(tmp_path / "twice.yaml")


def test_one_version_of_ray_and_python() -> None:
    """An image of another Ray than the client's fails at the first connection."""
    base = re.search(r"^FROM (rayproject/ray:(\S+?)-py(\d)(\d+)-cu\d+)$", DOCKERFILE, flags=re.MULTILINE)
    assert base is not None
    assert base[2] == ray.__version__ == RAYJOB["spec"]["rayClusterSpec"]["rayVersion"]
    assert AWS["docker"]["image"] == ON_PREM["docker"]["image"] == base[1]
    assert f">={base[3]}.{base[4]}" in (ROOT / "pyproject.toml").read_text()


def test_constraints_can_be_installed_on_a_node() -> None:
    assert checks.constraint_problems((ROOT / "constraints.txt").read_text(), ray.__version__) == []


def test_constraints_that_cannot_are_refused() -> None:
    found = checks.constraint_problems("torch==2.15.0+cpu\nray[tune]==2.59.0\n", "2.60.0")
    assert len(found) == 2


def test_the_image_copies_what_exists() -> None:
    copied = [word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, flags=re.MULTILINE) for word in line.split()]
    sources = [word for word in copied if not word.startswith(("--", "."))]
    assert [name for name in sources if not (ROOT / name).exists()] == []
    assert {"constraints.txt", "pyproject.toml", "act_ray", "search_spaces"} <= set(sources)


def test_pods_work_in_the_folder_of_the_image() -> None:
    folder = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {group["template"]["spec"]["containers"][0]["workingDir"] for group in groups} == set(folder)


def test_both_clusters_give_jobs_the_same_environment() -> None:
    assert yaml.safe_load(RAYJOB["spec"]["runtimeEnvYAML"])["env_vars"] == RUNTIME_ENV["env_vars"]


def test_ray_accepts_the_runtime_env() -> None:
    from ray.runtime_env import RuntimeEnv

    RuntimeEnv(**RUNTIME_ENV, working_dir="s3://bucket/package.zip")
    assert {"/.git", "/.venv", "/runs", "/tests"} <= set(RUNTIME_ENV["excludes"])
    assert all(isinstance(value, str) for value in RUNTIME_ENV["env_vars"].values())


def test_train_reads_the_variables_that_we_set() -> None:
    """A RAY_TRAIN_ name with a typing error would silently do nothing."""
    source = Path(ray.__file__).parent / "train"
    text = "".join(p.read_text() for p in [source / "constants.py", source / "v2/_internal/constants.py"])
    missing = [name for name in RUNTIME_ENV["env_vars"] if name.startswith("RAY_TRAIN_") and f'"{name}"' not in text]
    assert missing == []


def test_slots_fill_the_largest_cluster() -> None:
    """Fewer trial slots than trials that fit would leave paid GPUs idle."""
    (arguments,) = checks.tune_arguments(RAYJOB["spec"]["entrypoint"])
    for types, head in [
        (AWS["available_node_types"], "head"),
        (checks.derived_by_ray(RAYJOB)["available_node_types"], "headgroup"),
    ]:
        fit = checks.trials_of_largest_cluster(
            types["a100"]["max_workers"], types["a100"]["resources"]["GPU"], arguments
        )
        assert types[head]["resources"]["trial_slot"] == fit
    eights = len(ON_PREM["provider"]["worker_ips"])
    assert checks.trial_slots(ON_PREM["head_start_ray_commands"][-1]) == checks.trials_of_largest_cluster(
        eights, 8, arguments
    )


# ---------------------------------------------------------------------------------------------------- what is uploaded
def test_the_recipe_shows_what_ray_uploads(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path / "clone"
    for name in ("act_ray/data/x.py", "data/a.png", "my-images/a.png", "runs/a/x", "docs/x.md", "left-out/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    shutil.copy(ROOT / ".gitignore", folder)
    (folder / ".gitignore").open("a").write("/left-out/\n")
    (listed,) = re.findall(r"^(git ls-files .*?) \| du ", README, flags=re.MULTILINE)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    shown = subprocess.run(listed, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
    create_package(str(folder), tmp_path / "package.zip", True, excludes=RUNTIME_ENV["excludes"])
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        uploaded = {name for name in package.namelist() if not name.endswith("/")}
    assert set(shown.split("\0")) - {""} == uploaded == {".gitignore", "act_ray/data/x.py", "my-images/a.png"}


# ---------------------------------------------------------------------------------------------------- linters
@pytest.mark.parametrize("command", ["shellcheck cluster/slurm.sh", "hadolint cluster/Dockerfile"])
def test_linters_find_nothing(command: str) -> None:
    found = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


# ---------------------------------------------------------------------------------------------------- commands
def test_commands_name_search_spaces_that_ship() -> None:
    assert len(all_tune_arguments()) == 4
    assert [p for arguments in all_tune_arguments() for p in checks.missing_spaces(arguments)] == []


def test_commands_store_where_all_nodes_read() -> None:
    for arguments in all_tune_arguments():
        place = "/mnt/act/" if "--shared-storage" in arguments else "s3://"
        for flag in ("--storage", "--data"):
            assert arguments[arguments.index(flag) + 1].startswith(place)


def test_commands_use_options_that_act_ray_tune_has() -> None:
    from act_ray.tune.__main__ import command

    options = {flag for param in command.params for flag in [*param.opts, *param.secondary_opts]}
    assert [p for arguments in all_tune_arguments() for p in checks.unknown_flags(arguments, options)] == []
    assert "--resume" in options  # README: after the loss of the head
    required = {param.opts[-1] for param in command.params if param.required}
    assert all(required <= set(arguments) for arguments in all_tune_arguments())


def test_an_option_that_does_not_exist_is_refused() -> None:
    assert checks.unknown_flags(["--spaec=x", "--data", "-1"], {"--space", "--data"}) == ["--spaec: no such option"]


def readme_ray_commands() -> list[str]:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL))
    return [
        part.strip() for line in blocks.splitlines() for part in line.split("&&") if part.strip().startswith("ray ")
    ]


@pytest.mark.parametrize("line", readme_ray_commands())
def test_the_readmes_ray_commands_parse(line: str) -> None:
    """Each is parsed, not run, by Ray's own command line."""
    import click
    from ray.scripts.scripts import cli

    words, command = shlex.split(line, comments=True)[1:], cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    context = command.make_context(command.name, words)
    config = context.params.get("cluster_config_file")
    assert config is None or (ROOT / config).is_file()
    if context.params.get("runtime_env"):
        assert (ROOT / context.params["runtime_env"]).is_file()


def test_the_readme_shows_the_whole_way() -> None:
    shown = " ".join(readme_ray_commands())
    assert all(step in shown for step in ["ray up", "ray dashboard", "ray job submit", "ray down"])
    assert "No real cloud" in README
