"""Connects to Ray: a cluster that is there, or a local one with the settings that the search needs."""

import json
import logging
import os
import secrets
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray._private.worker
from ray._private import auto_init_hook

from act_ray.errors import Interrupted, UserError, too_many_workers
from act_ray.ray_autoscaler import largest
from act_ray.runs.storage import storage_is_local

# Read by Ray in workers and controllers; docs/design.md says what each is for.
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}
OWN = ("RAY_API_SERVER_ADDRESS", "GLOO_SOCKET_IFNAME")  # what the processes of a local Ray are told, and no others
TRIAL_SLOT = "trial_slot"  # a resource of the head node: trials' drivers take one instead of a worker's CPU


@contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Join the cluster of $RAY_ADDRESS (set inside `ray job submit`), or start Ray on this machine for the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    env = {name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()}
    os.environ.update(env)  # Ray's processes on this machine have it from this one
    quiet: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray._private.worker.print_to_stdstream = _ray_says
    if ray.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in OWN}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.environ.get("RAY_ADDRESS"):
            # Ray refuses a variable that the job's own environment sets as well, even to the same value.
            theirs = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
            ours = {name: value for name, value in env.items() if name not in theirs.get("env_vars", {})}
            ray.init(address="auto", runtime_env={"env_vars": ours}, **quiet)
        else:
            _start(cpus, quiet)
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        # A thread that somebody did not wait for still calls Ray, which would join any cluster of this machine for it.
        auto_init_hook.enable_auto_connect = False
        raise
    finally:
        if lost() is None:
            ray.shutdown()
        else:  # which would wait a minute for an answer, and then abort
            ray._private.worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(cpus: int | None, quiet: dict[str, object]) -> None:
    """A local Ray: its dashboard listens on loopback, its own ports on all interfaces, and all want a token.

    With RAY_AUTH_MODE unset, Ray creates the token in ~/.ray and says so; the message is silenced where it comes from.
    """
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    keep_token_private()
    port = free_port()
    # Ray Train frees a stopped run's placement group through the dashboard's API. Without this address Ray takes
    # the one that another cluster on this machine has left in a file.
    # Not as a runtime_env: its processes, which are not those that Ray has ready, take three seconds more each.
    os.environ.update(zip(OWN, (f"http://127.0.0.1:{port}", "lo"), strict=True))
    ray.init(
        address="local",
        num_cpus=cpus,
        resources={TRIAL_SLOT: 64},
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=port,
        **quiet,
    )


def lost() -> str | None:
    """Why the local Ray that this process started will never answer again; None as long as it lives.

    A process that has ended stays in the list of processes until its parent looks: Ray's workers, which end with their
    raylet, take it for one that lives.
    """
    node = ray._private.worker._global_node
    for kind in ("gcs_server", "raylet"):
        for started in node.all_processes.get(kind, ()) if node is not None else ():
            if (code := started.process.poll()) is not None:
                return f"Ray on this machine is lost: its {kind} ended ({_how(code)})"
    return None


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _ray_says(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    """What Ray's own listener prints, shortened. That a worker died is told by who goes on with its work."""
    for line in data["lines"]:
        if not line.startswith("A worker died"):
            print(f"ray: {' '.join(line.split())[:300]}", file=sys.stderr)


def keep_token_private() -> None:
    """Have Ray's token in a file that its owner alone can read: Ray would make one that all of this machine can.

    Who has the token runs what he likes in the cluster, as the user who started it.
    """
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return  # somebody has decided
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o600)
            return
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(fresh, path)  # whole, and no other's is replaced
        except FileExistsError:
            path.chmod(0o600)  # another process was first
        finally:
            fresh.unlink()
    except OSError:
        return  # a home that is another's, or cannot be written: Ray says what it needs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_shared_storage(location: str, shared: bool) -> None:
    """Refuse a folder of one machine on a cluster that has, or will have, several, unless all of them mount it."""
    if shared or not storage_is_local(location) or (nodes() == 1 and not grows()):
        return
    size = f"has {nodes()} nodes" if nodes() > 1 else "adds nodes when trials want them"
    raise UserError(
        f"--storage: {location} is a folder of one machine, and the cluster {size}; give an s3:// or gs:// URI, or "
        "--shared-storage if all nodes mount it"
    )


def grows() -> bool:
    """Whether an autoscaler may add nodes to the cluster that was joined: its head trains nothing, or is of one.

    `ray up` leaves its settings on the head, where jobs run; KubeRay tells its pods what they are.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return False  # our own
    launched = os.path.exists(os.path.expanduser("~/ray_bootstrap_config.yaml")) or "RAY_NODE_TYPE_NAME" in os.environ
    return launched or ray.cluster_resources().get("CPU", 0) == 0


def nodes() -> int:
    """Nodes of the cluster that are alive."""
    return sum(1 for node in ray.nodes() if node["Alive"])


def gpu_per_worker(workers: int, asked: bool | None) -> bool:
    """Whether each worker gets a GPU. Raises UserError for what this cluster can never hold.

    One node is the whole cluster; more, or a head without CPUs, may be one that grows, where Ray waits for nodes: as
    far as its settings say that it grows.
    """
    full = largest()
    if full is not None:
        gpu = asked if asked is not None else full.holds({"GPU": 1}) > 0
        unit = "GPU" if gpu else "CPU"
        if (most := full.holds({unit: 1})) < workers:
            hint = "; try --cpu" if gpu else ""
            raise UserError(
                f"--workers {workers}: one {unit} each, and the cluster grows to {most} {unit}s ({full}); at most "
                f"{most}{hint}"
            )
        return gpu
    have = ray.cluster_resources()
    cpus, gpus, fixed = int(have.get("CPU", 0)), int(have.get("GPU", 0)), nodes() == 1
    if fixed and 0 < cpus < workers:
        raise too_many_workers("--workers", workers, cpus)
    if asked and fixed and cpus and gpus < workers:
        raise UserError(f"--gpu: {workers} workers need {workers} GPUs, this machine has {gpus}; try --cpu")
    if asked is not None:
        return asked
    return gpus > 0 or cpus == 0
