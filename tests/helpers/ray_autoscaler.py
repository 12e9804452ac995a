"""A Ray cluster on this machine that grows and shrinks: Ray's autoscaler, whose nodes are processes here."""

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.ray_nodes import Nodes

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider"
HEAD, WORKER = "ray.head.default", "worker"
IDLE_S = 5
NOTHING: dict[str, Any] = {
    name: {} if name in ("auth", "docker", "file_mounts") else []
    for name in (
        "auth", "docker", "file_mounts", "cluster_synced_files", "initialization_commands", "setup_commands",
        "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
        "rsync_exclude", "rsync_filter",
    )
}  # fmt: skip


class GrowingCluster(Nodes):
    """`with GrowingCluster(cpus=1, most=2, slots=2) as cluster`: a head without CPUs; 0 to `most` nodes of `cpus` CPUs.

    Autoscaler v2, as KubeRay has it. Ray's own ray.cluster_utils.AutoscalingCluster does the same with a file that is
    not in Ray's wheel, and stops every Ray of this machine before and after.
    """

    def __init__(self, cpus: int, most: int, slots: int) -> None:
        super().__init__()
        head_id = "f" * 51 + "00000"
        kinds: dict[str, Any] = {
            HEAD: {"resources": {"CPU": 0, "trial_slot": slots}, "node_config": {}, "max_workers": 0},
            WORKER: {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": most},
        }
        provider = {
            "type": "external", "module": f"{PROVIDER}.FakeMultiNodeProvider", "launch_multiple": True,
            "gcs_address": f"127.0.0.1:{self.port}", "head_node_id": head_id, "use_node_id_as_ip": True,
            "disable_node_updaters": True, "disable_launch_config_check": True,
        }  # fmt: skip
        self.config = NOTHING | {
            "cluster_name": "growing", "max_workers": most, "provider": provider, "available_node_types": kinds,
            "head_node_type": HEAD, "idle_timeout_minutes": IDLE_S / 60, "upscaling_speed": 100.0,
            "file_mounts_sync_continuously": False,
        }  # fmt: skip
        path = self.folder / "autoscaler.json"
        path.write_text(json.dumps(self.config))
        self.head.append(f"--autoscaling-config={path}")
        self.head[self.head.index('--resources={"trial_slot": 8}')] = f'--resources={{"trial_slot": {slots}}}'
        self.of_the_head = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": head_id, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id,
        }  # fmt: skip

    def raylets(self) -> list[psutil.Process]:
        """Those of the nodes that the autoscaler started."""
        found = []
        for one in psutil.Process(self.started["head"].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
                if one.name() == "raylet" and one.environ().get("RAY_NODE_TYPE_NAME") == WORKER:
                    found.append(one)
        return found

    def leave_settings(self, home: Path) -> None:
        """What the autoscaler may start, where `ray up` leaves it on a head."""
        (home / "ray_bootstrap_config.yaml").write_text(json.dumps(self.config))

    def lose(self, *raylets: psutil.Process) -> None:
        """All processes of these nodes at once, as spot machines go."""
        for one in [process for raylet in raylets for process in [*raylet.children(recursive=True), raylet]]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
