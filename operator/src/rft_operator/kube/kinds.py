"""The table of the kinds of objects that the operator reads or writes: one row per kind.

Everything about a kind is derived from its row: its paths at the API server, whether it is watched and with which label
selector, the labels of its children, the order in which objects are applied, and the operator's permissions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rft_api.gateway_demand import WAKE_ANNOTATION
from rft_api.object_labels import REWARD_SERVER, SERVER_COMPONENT, TRAINER
from rft_api.resource import GROUP, VERSION
from rft_operator.kube import names


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    name: str
    """Name of the kind, as in a manifest: `RFTJob`."""
    group: str
    """API group; empty for the core group."""
    version: str
    """Version of the API group."""
    plural: str
    """Name of the resource in paths and in roles: `rftjobs`."""
    verbs: tuple[str, ...]
    """Verbs that the operator uses, and has in its roles. A kind with the verb `watch` is watched."""
    component: str | None = None
    """Component label of the children of an object; None for kinds that are not resources of the project."""
    makes_pods: bool = False
    """Whether a controller of Kubernetes creates pods for its objects, which are therefore applied last."""
    own_namespace_only: bool = False
    """Whether the operator uses the kind only in its own namespace."""
    cluster_scoped: bool = False
    """Whether its objects belong to no namespace: an operator that watches some namespaces only may not read them."""
    changes_owners: bool = False
    """Whether the operator changes the owner references of existing objects."""
    annotations: tuple[str, ...] = ()
    """Annotations by which others ask something of the operator. It reads no other ones of its resources."""

    @property
    def ours(self) -> bool:
        """Whether the kind is a resource of the project, which the operator reconciles."""
        return self.component is not None

    @property
    def watched(self) -> bool:
        """Whether the operator watches the kind, and its store holds the objects."""
        return "watch" in self.verbs

    @property
    def child(self) -> bool:
        """Whether the operator watches the kind because resources of the project own such objects."""
        return self.watched and not self.ours

    @property
    def api_version(self) -> str:
        """Group and version, as in a manifest: `batch/v1`, `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Beginning of the paths of its API group: `/apis/batch/v1`, `/api/v1`."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    @property
    def selector(self) -> str | None:
        """Label selector of the objects that the operator watches; None when it watches all of them."""
        return f"{names.MANAGED_BY}={names.FIELD_MANAGER}" if self.child else None

    def child_labels(self, owner: str) -> dict[str, str]:
        """Return the labels of all children of the object `owner` of this kind; they also serve as a selector."""
        assert self.component is not None
        return {names.MANAGED_BY: names.FIELD_MANAGER, names.COMPONENT: self.component, names.OWNER: owner}


RFT_JOB: Final = Kind("RFTJob", GROUP, VERSION, "rftjobs", ("list", "watch"), component=TRAINER)
REWARD_FUNCTION: Final = Kind(
    "RewardFunction", GROUP, VERSION, "rewardfunctions", ("list", "watch"), component=REWARD_SERVER
)
INFERENCE_ENDPOINT: Final = Kind(
    "InferenceEndpoint",
    GROUP,
    VERSION,
    "inferenceendpoints",
    ("list", "watch", "create", "patch"),
    component=SERVER_COMPONENT,
    # A base endpoint is owned by all jobs that use it.
    changes_owners=True,
    annotations=(WAKE_ANNOTATION,),
)

_APPLIED = ("get", "list", "watch", "create", "patch")
JOB: Final = Kind("Job", "batch", "v1", "jobs", ("get", "list", "watch", "create", "delete"), makes_pods=True)
CONFIG_MAP: Final = Kind("ConfigMap", "", "v1", "configmaps", (*_APPLIED, "delete"))
SERVICE: Final = Kind("Service", "", "v1", "services", _APPLIED)
NETWORK_POLICY: Final = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies", (*_APPLIED, "delete"))
DEPLOYMENT: Final = Kind("Deployment", "apps", "v1", "deployments", _APPLIED, makes_pods=True)
# Pods are deleted when only containers that others have added still run.
POD: Final = Kind("Pod", "", "v1", "pods", ("list", "watch", "delete"))
# The operator writes tokens once and never reads them.
SECRET: Final = Kind("Secret", "", "v1", "secrets", ("create",))
# Events of Kubernetes are read about objects that are late, and not watched.
EVENT: Final = Kind("Event", "events.k8s.io", "v1", "events", ("list", "create"))
# Nodes say how much memory their GPUs have. They are read when a job is about to start, and not watched.
NODE: Final = Kind("Node", "", "v1", "nodes", ("list",), cluster_scoped=True)
LEASE: Final = Kind(
    "Lease", "coordination.k8s.io", "v1", "leases", ("get", "create", "update"), own_namespace_only=True
)

_ALL = (
    *(RFT_JOB, REWARD_FUNCTION, INFERENCE_ENDPOINT),
    *(JOB, CONFIG_MAP, SERVICE, NETWORK_POLICY, DEPLOYMENT, POD, SECRET, EVENT, NODE, LEASE),
)
KINDS: Final = {kind.name: kind for kind in _ALL}
"""All kinds by name."""

OURS: Final = tuple(kind for kind in KINDS.values() if kind.ours)
"""The resources of the project."""
WATCHED: Final = tuple(kind for kind in KINDS.values() if kind.watched)
"""The kinds that are watched."""
