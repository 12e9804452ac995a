"""What Ray's autoscaler may add to the cluster that was joined, and how far it has come with what is wanted."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ray.core.generated import autoscaler_pb2
from ray.experimental.internal_kv import internal_kv_get_gcs_client

Resources = Mapping[str, float]
SETTINGS = "~/ray_bootstrap_config.yaml"  # `ray up` leaves it on the head, where jobs run
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head
ALIVE = (autoscaler_pb2.NodeStatus.RUNNING, autoscaler_pb2.NodeStatus.IDLE)
COUNTED = ("CPU", "GPU")  # what a line tells of a node; the rest is memory, and labels
WAITS = ("|PENDING", "|RESCHEDULING")  # how Ray's description of a placement group without a place ends


def holds(has: Resources, bundle: Resources) -> int:
    """How many such bundles fit where there is so much."""
    return min(int(has.get(kind, 0) // count) for kind, count in bundle.items())


@dataclass(frozen=True)
class NodeType:
    """What a node of this name has, and how many of them there may be."""

    name: str
    most: int
    has: Resources

    def holds(self, bundle: Resources) -> int:
        """How many such bundles fit on one node."""
        return holds(self.has, bundle)

    def __str__(self) -> str:
        has = [f"{count:g} {kind}{'s' if count != 1 else ''}" for kind, count in self.has.items() if kind in COUNTED]
        return f"{self.most} {self.name} of {' and '.join(has) or 'no CPU'}"


@dataclass(frozen=True)
class Largest:
    """The cluster at its largest: `nodes` of these types, and its head."""

    nodes: int
    types: tuple[NodeType, ...]
    head: NodeType

    def holds(self, bundle: Resources) -> int:
        """How many such bundles fit, where each is on one node."""
        count, left = self.head.holds(bundle), self.nodes
        for kind in sorted(self.types, key=lambda kind: -kind.holds(bundle)):
            taken = min(kind.most, left)
            count, left = count + taken * kind.holds(bundle), left - taken
        return count

    def __str__(self) -> str:
        """`2 a100 of 96 CPUs and 8 GPUs`, one after the other."""
        return ", ".join(map(str, self.types))


def largest() -> Largest | None:
    """The cluster at its largest, where that can be known: `ray up` started it, and this process is on its head.

    None for KubeRay, whose autoscaler alone asks Kubernetes for it, and for machines of one's own, whose settings do
    not say what they have. Ray has a place for it (ClusterConfig), which its own autoscaler leaves empty.
    """
    path = os.path.expanduser(SETTINGS)
    if not os.environ.get("RAY_ADDRESS") or not os.path.exists(path):
        return None
    try:
        with open(path) as file:
            settings: Any = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(settings, dict):
        return None
    name, kinds = settings.get("head_node_type"), settings.get("available_node_types") or {}
    types = [NodeType(key, kind.get("max_workers", 0), kind.get("resources") or {}) for key, kind in kinds.items()]
    workers = tuple(kind for kind in types if kind.name != name and kind.most > 0)
    if not isinstance(name, str) or name not in kinds or not all(kind.has for kind in workers):
        return None
    return Largest(settings.get("max_workers", 0), workers, NodeType(name, 1, kinds[name].get("resources") or {}))


@dataclass(frozen=True)
class Growth:
    """What of the cluster is there besides its head, what is coming, and what has no place."""

    up: int  # nodes
    coming: int  # nodes that the autoscaler has asked for, or that start
    free: tuple[Resources, ...]  # of each node, the head too
    failed: str  # why the last one did not come; "" where none failed
    waiting: tuple[tuple[Resources, ...], ...]  # the bundles of each placement group without a place
    refused: tuple[tuple[Resources, ...], ...]  # those of them for which the autoscaler can start no node now


def growth() -> Growth:
    """As the cluster's GCS has it; without an autoscaler (v2) nothing is coming and nothing refused.

    Raises RpcError where the GCS does not answer.
    """
    reply = autoscaler_pb2.GetClusterStatusReply()
    reply.ParseFromString(internal_kv_get_gcs_client().get_cluster_status(timeout_s=5))
    plan, cluster = reply.autoscaling_state, reply.cluster_resource_state
    nodes = [node for node in cluster.node_states if HEAD not in node.total_resources]
    up = {node.instance_id for node in nodes if node.status in ALIVE}
    starting = [one for one in plan.pending_instances if one.instance_id not in up]
    return Growth(
        up=len([node for node in nodes if node.status in ALIVE]),
        coming=sum(one.count for one in plan.pending_instance_requests) + len(starting),
        free=tuple(dict(node.available_resources) for node in cluster.node_states if node.status in ALIVE),
        failed=plan.failed_instance_requests[-1].reason if plan.failed_instance_requests else "",
        waiting=_bundles(gang for gang in cluster.pending_gang_resource_requests if gang.details.endswith(WAITS)),
        refused=_bundles(plan.infeasible_gang_resource_requests),
    )


def _bundles(gangs: Any) -> tuple[tuple[Resources, ...], ...]:
    return tuple(tuple(dict(one.resources_bundle) for one in gang.requests) for gang in gangs)
