"""Offline checks of the cluster files: Ray's own, and those that Ray leaves to the cloud to refuse.

A check returns the problems it found, one line each; no line means that the file passes.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import yaml

# ---------------------------------------------------------------------------------------------------------- schemas
# A dict names the allowed keys, a list holds the schema of its items, None takes anything.


def _keys(names: str) -> dict[str, None]:
    return dict.fromkeys(names.split())


# EC2 RunInstances as botocore 1.44 knows it, with SubnetIds, which Ray adds. Ray checks none of this: a typing error
# surfaces when the first node is asked for. Counts, tags and SubnetId are missing because Ray sets them itself.
EC2_NODE_CONFIG: dict[str, Any] = {
    "BlockDeviceMappings": [
        {
            "DeviceName": None,
            "Ebs": _keys("DeleteOnTermination Encrypted Iops KmsKeyId SnapshotId Throughput VolumeSize VolumeType"),
            "NoDevice": None,
            "VirtualName": None,
        }
    ],
    "CapacityReservationSpecification": {
        "CapacityReservationPreference": None,
        "CapacityReservationTarget": {"CapacityReservationId": None, "CapacityReservationResourceGroupArn": None},
    },
    "IamInstanceProfile": {"Arn": None, "Name": None},
    "InstanceMarketOptions": {
        "MarketType": None,
        "SpotOptions": _keys("BlockDurationMinutes InstanceInterruptionBehavior MaxPrice SpotInstanceType ValidUntil"),
    },
    "MetadataOptions": _keys("HttpEndpoint HttpProtocolIpv6 HttpPutResponseHopLimit HttpTokens InstanceMetadataTags"),
    "Placement": _keys("AvailabilityZone GroupId GroupName PartitionNumber Tenancy"),
    **_keys(
        "CpuOptions EbsOptimized ImageId InstanceType KeyName LaunchTemplate Monitoring "
        "NetworkInterfaces SecurityGroupIds SubnetIds TagSpecifications UserData"
    ),
}

_CONTAINER = _keys("args command env envFrom image imagePullPolicy name securityContext workingDir") | {
    "lifecycle": None,
    "ports": [{"containerPort": None, "name": None, "protocol": None}],
    "resources": {"limits": None, "requests": None},
    "volumeMounts": [_keys("mountPath name readOnly subPath")],
}
POD: dict[str, Any] = {
    "metadata": None,
    "spec": _keys("affinity nodeSelector priorityClassName restartPolicy serviceAccountName")
    | {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "imagePullSecrets": None,
        "securityContext": None,
        "terminationGracePeriodSeconds": None,
        "tolerations": [_keys("effect key operator tolerationSeconds value")],
        "volumes": None,
    },
}


def unknown_keys(value: Any, schema: Any, where: str) -> list[str]:
    """Keys of `value` that `schema` does not have, each with the nearest one that it has."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: expected keys and values, got {value!r}"]
        problems = []
        for key, item in value.items():
            if key in schema:
                problems += unknown_keys(item, schema[key], f"{where}.{key}")
            else:
                near = difflib.get_close_matches(str(key), list(schema), n=1)
                problems.append(f"{where}: unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        return problems
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: expected a list, got {value!r}"]
        return [p for i, item in enumerate(value) for p in unknown_keys(item, schema[0], f"{where}[{i}]")]
    return []


# ------------------------------------------------------------------------------------------------------------ loading
class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} given twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def load(path: Path) -> dict[str, Any]:
    """The one document of a YAML file; raises ValueError where a key is given twice."""
    return yaml.load(path.read_text(), Loader=_Loader)


def is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost", "::1")


# ---------------------------------------------------------------------------------------------- Ray's own checks, AWS
def prepared_by_ray(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of the file before it asks the cloud; raises as `ray up` would."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@contextmanager
def _aws_config_module() -> Iterator[Any]:
    """Ray's AWS bootstrap with any call to AWS an error, whether or not boto3 is installed."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"would have asked AWS for {args[:1]}: the file leaves something to be looked up")

    stubs: dict[str, Any] = {}
    try:
        importlib.import_module("boto3")
    except ModuleNotFoundError:
        names = ["boto3", "boto3.exceptions", "boto3.resources", "boto3.resources.base"]
        names += ["botocore", "botocore.client", "botocore.config", "botocore.exceptions"]
        stubs = {name: mock.MagicMock(__version__="1.40.0") for name in names}
    before = set(sys.modules)
    with mock.patch.dict(sys.modules, stubs):
        aws = importlib.import_module("ray.autoscaler._private.aws.config")
        with mock.patch.multiple(aws, _client=refuse, _resource=refuse):
            yield aws
    if stubs:  # nobody else may find a module that was imported over the stubs
        for name in set(sys.modules) - before:
            if name.startswith("ray.autoscaler._private.aws"):
                del sys.modules[name]


def bootstrapped_by_ray(prepared: dict[str, Any]) -> dict[str, Any]:
    """The steps of Ray's AWS bootstrap that a complete file takes without the network (all but keys and subnets)."""
    with _aws_config_module() as aws:
        aws.check_legacy_fields(prepared)
        config = copy.deepcopy(prepared) | {"head_node": {}}
        config = aws._configure_from_launch_template(config)
        config = aws._configure_from_network_interfaces(config)
        config = aws._configure_iam_role(config)
        aws._check_ami(config)
        return config


# -------------------------------------------------------------------------------------------------- our own checks, AWS
def aws_problems(config: dict[str, Any], root: Path) -> list[str]:
    """What Ray's validation lets through in a cluster launcher file for AWS; paths are relative to `root`."""
    types, head = config.get("available_node_types", {}), config.get("head_node_type")
    problems = []
    if head not in types:
        problems.append(f"head_node_type: {head!r} is not one of {sorted(types)}")
    for name, node in types.items():
        problems += _node_type_problems(name, node, is_head=name == head)
    workers = sum(node.get("max_workers", 0) for name, node in types.items() if name != head)
    if workers > config.get("max_workers", 0):
        problems.append(f"max_workers: {config.get('max_workers')} is less than the {workers} of the node types")
    zones = str(config["provider"].get("availability_zone", "")).split(",")
    problems += [
        f"provider.availability_zone: {zone!r} is not in {config['provider'].get('region')}"
        for zone in map(str.strip, zones)
        if not zone.startswith(str(config["provider"].get("region")))
    ]
    return problems + _command_problems(config, root) + _head_start_problems(config)


def _node_type_problems(name: str, node: dict[str, Any], is_head: bool) -> list[str]:
    where = f"available_node_types.{name}"
    problems = unknown_keys(node.get("node_config", {}), EC2_NODE_CONFIG, f"{where}.node_config")
    low, high = node.get("min_workers", 0), node.get("max_workers", 0)
    if low > high:
        problems.append(f"{where}: min_workers {low} > max_workers {high}")
    market = node.get("node_config", {}).get("InstanceMarketOptions", {}).get("MarketType")
    if not node.get("node_config", {}).get("IamInstanceProfile"):
        problems.append(f"{where}.node_config: no IamInstanceProfile, so no access to the bucket")
    if is_head:
        if node.get("resources", {}).get("CPU") != 0:
            problems.append(f"{where}.resources: CPU must be 0, training does not belong on the head")
        if not node.get("resources", {}).get("trial_slot", 0) >= 1:
            problems.append(f"{where}.resources: no trial_slot, so no trial could start")
        if market == "spot":
            problems.append(f"{where}: the head must not be a spot instance, it holds the drivers")
    elif not node.get("idle_timeout_s", 0) > 0:
        problems.append(f"{where}: no idle_timeout_s")
    return problems


def _command_problems(config: dict[str, Any], root: Path) -> list[str]:
    """Set-up: given, from a folder that is mounted, and of files that exist."""
    problems = []
    setup = config.get("setup_commands") or []
    if not setup:
        problems.append("setup_commands: missing, and Ray's default installs a nightly wheel")
    if not any("pip install -c constraints.txt" in command for command in setup):
        problems.append("setup_commands: the package is not installed with constraints.txt")
    mounts = {remote.rstrip("/"): local for remote, local in config.get("file_mounts", {}).items()}
    for command in setup:
        for folder in re.findall(r"\bcd (\S+)", command):
            if folder not in mounts:
                problems.append(f"setup_commands: {folder} is not in file_mounts")
            else:
                problems += [
                    f"setup_commands: {file} does not exist"
                    for file in re.findall(r"-[cr] (\S+)", command)
                    if not (root / mounts[folder] / file).exists()
                ]
    problems += [
        f"file_mounts: {local} does not exist"
        for local in mounts.values()
        if not local.startswith("~") and not (root / local).exists()
    ]
    for name in (".git", ".venv", "runs"):
        if f"**/{name}/**" not in config.get("rsync_exclude", []):
            problems.append(f"rsync_exclude: {name} would be copied to every node")
    return problems


def _head_start_problems(config: dict[str, Any]) -> list[str]:
    starts = [c for c in config.get("head_start_ray_commands", []) if "ray start" in c]
    if len(starts) != 1:
        return [f"head_start_ray_commands: {len(starts)} x `ray start`, expected one"]
    flags = re.findall(r"--dashboard-host[= ](\S+)", starts[0])
    host = flags[-1] if flags else "127.0.0.1"  # Ray's default
    options = " ".join(config.get("docker", {}).get("run_options", []))
    path = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", options)
    token = "RAY_AUTH_MODE=token" in options
    problems = []
    if token and (path is None or path[1] not in config.get("file_mounts", {})):
        problems.append("docker.run_options: RAY_AUTH_MODE=token, but file_mounts brings no RAY_AUTH_TOKEN_PATH")
    if not token:
        problems.append("docker.run_options: no RAY_AUTH_MODE=token, so every port of the cluster runs anyone's code")
    if not is_loopback(host) and not token:
        problems.append(f"head_start_ray_commands: the dashboard listens on {host} without a token")
    if "--autoscaling-config" not in starts[0]:
        problems.append("head_start_ray_commands: no --autoscaling-config, so no node would ever come")
    return problems


# ---------------------------------------------------------------------------------------------- our own checks, on-prem
def on_prem_problems(config: dict[str, Any], root: Path) -> list[str]:
    """What Ray's validation lets through in a cluster launcher file for machines of one's own."""
    provider, problems = config["provider"], []
    machines = [provider["head_ip"], *provider["worker_ips"]]
    problems += [f"provider: {ip} twice" for ip in sorted(set(machines)) if machines.count(ip) > 1]
    if not config.get("auth", {}).get("ssh_private_key"):
        problems.append("auth: no ssh_private_key, and Ray makes none for machines that are there")
    start = " ".join(command for command in config["head_start_ray_commands"] if "ray start" in command)
    if "--num-cpus=0" not in start:
        problems.append("head_start_ray_commands: no --num-cpus=0, training does not belong on the head")
    if trial_slots(start) < 1:
        problems.append("head_start_ray_commands: no trial_slot, so no trial could start")
    return problems + _command_problems(config, root) + _head_start_problems(config)


def trial_slots(command: str) -> int:
    """Of a `ray start`."""
    found = re.search(r"--resources='(.*?)'", command)
    slots: int = json.loads(found[1]).get("trial_slot", 0) if found else 0
    return slots


# -------------------------------------------------------------------------------------------------------- KubeRay
def cluster_spec(resource: dict[str, Any]) -> dict[str, Any]:
    """The cluster of a RayJob, or of a RayCluster."""
    spec: dict[str, Any] = resource["spec"]
    return spec.get("rayClusterSpec", spec)


def derived_by_ray(resource: dict[str, Any]) -> dict[str, Any]:
    """The autoscaler's own reading of the resource's cluster, validated by Ray; raises as the autoscaler would."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr({"metadata": resource["metadata"], "spec": cluster_spec(resource)})


def schema_problems(resource: dict[str, Any]) -> list[str]:
    """What KubeRay's API has no place for."""
    schema = load(Path(__file__).parents[1] / "cluster" / "kuberay_schema.yaml")
    errors = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [f"{error.json_path.replace('$', str(resource.get('kind')))}: {error.message}" for error in errors]


def kuberay_problems(resource: dict[str, Any]) -> list[str]:
    """What Ray's derivation lets through in a RayJob or a RayCluster."""
    problems = schema_problems(resource)
    cluster = cluster_spec(resource)
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for group in [head, *workers]:
        problems += unknown_keys(group["template"], POD, group.get("groupName", "headGroupSpec"))
    problems += _head_group_problems(head, token=cluster.get("authOptions", {}).get("mode") == "token")
    for group in workers:
        problems += _worker_group_problems(group)
    if cluster.get("enableInTreeAutoscaling") is not True:
        problems.append("enableInTreeAutoscaling: must be true")
    if cluster.get("autoscalerOptions", {}).get("version") != "v2":
        problems.append("autoscalerOptions.version: must be v2")
    if resource["kind"] == "RayJob" and resource["spec"].get("shutdownAfterJobFinishes") is not True:
        problems.append("spec.shutdownAfterJobFinishes: must be true, or the cluster outlives its job")
    images = {c["image"] for g in [head, *workers] for c in g["template"]["spec"]["containers"][:1]}
    if len(images) != 1:
        problems.append(f"head and workers run different images {sorted(images)}")
    return problems


def _head_group_problems(head: dict[str, Any], token: bool) -> list[str]:
    params = head["rayStartParams"]
    problems = []
    if str(params.get("num-cpus")) != "0":
        problems.append("headGroupSpec.rayStartParams: num-cpus must be 0, training does not belong on the head")
    # KubeRay hands this to a shell, so it is JSON in quotes in a string.
    resources = json.loads(json.loads(params["resources"])) if "resources" in params else {}
    if not resources.get("trial_slot", 0) >= 1:
        problems.append("headGroupSpec.rayStartParams.resources: no trial_slot, so no trial could start")
    host = params.get("dashboard-host", "0.0.0.0")  # KubeRay's default
    if not is_loopback(host) and not token:
        problems.append(f"headGroupSpec: the dashboard listens on {host} without authOptions.mode: token")
    return problems + _shm_problems(head, "headGroupSpec")


def _worker_group_problems(group: dict[str, Any]) -> list[str]:
    where = f"workerGroupSpecs.{group['groupName']}"
    low, start, high = group["minReplicas"], group.get("replicas", group["minReplicas"]), group["maxReplicas"]
    problems = _shm_problems(group, where)
    if low > high:
        problems.append(f"{where}: minReplicas {low} > maxReplicas {high}")
    elif not low <= start <= high:
        problems.append(f"{where}: replicas {start} is not in {low}..{high}")
    resources = group["template"]["spec"]["containers"][0]["resources"]
    if resources.get("limits", {}).get("nvidia.com/gpu") != resources.get("requests", {}).get("nvidia.com/gpu"):
        problems.append(f"{where}: Kubernetes refuses GPUs whose request is not their limit")
    if not group.get("idleTimeoutSeconds", 0) > 0:
        problems.append(f"{where}: no idleTimeoutSeconds")
    return problems


def _shm_problems(group: dict[str, Any], where: str) -> list[str]:
    pod = group["template"]["spec"]
    named = {v["name"] for v in pod.get("volumes", []) if v.get("emptyDir", {}).get("medium") == "Memory"}
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0].get("volumeMounts", [])}
    return [] if mounts.get("/dev/shm") in named else [f"{where}: no memory volume at /dev/shm"]


# ------------------------------------------------------------------------------------------------- jobs and their files
def tune_arguments(text: str) -> list[list[str]]:
    """The arguments of every `python -m act_ray.tune ...` in a file or an entrypoint, a command a line."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [line.split("python -m act_ray.tune", 1)[1] for line in lines if "python -m act_ray.tune " in line]
    return [shlex.split(command, comments=True) for command in commands]


def missing_spaces(arguments: list[str]) -> list[str]:
    """Search spaces that a command names and that do not ship."""
    from act_ray.tune.space_files import shipped_spaces

    spaces = [value for flag, value in itertools.pairwise(arguments) if flag == "--space"]
    return [f"--space: {space} does not ship" for space in spaces if space not in shipped_spaces()]


def unknown_flags(arguments: list[str], options: set[str]) -> list[str]:
    """Flags of a command line that are not among `options`."""
    flags = [word.split("=", 1)[0] for word in arguments if re.match(r"--?[a-zA-Z]", word)]
    return [f"{flag}: no such option" for flag in flags if flag not in options]


def trials_of_largest_cluster(nodes: int, gpus: int, arguments: list[str]) -> int:
    """Trials that fit at once on `nodes` of `gpus` each, for the --workers-per-trial of a command (1 GPU a worker)."""
    workers = int(arguments[arguments.index("--workers-per-trial") + 1])
    return nodes * (gpus // workers)


def constraint_problems(text: str, ray_version: str) -> list[str]:
    """Pins that a node could not install, or that fight with the image."""
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", text, flags=re.MULTILINE))
    problems = [f"constraints.txt: {n}=={v} is a local build, no index has it" for n, v in pins.items() if "+" in v]
    if pins.get("ray") != ray_version:
        problems.append(f"constraints.txt: ray {pins.get('ray')}, the images have {ray_version}")
    return problems
