"""The kinds of objects that the operator reads or writes: one row each, from which everything about a kind follows.

Paths at the API server, watches and their label selectors, what a full list reads, which label names an owner, the
order in which objects are applied, and the operator's roles: all are derived from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rft_api.resource import GROUP, VERSION
from rft_operator.kube import names


@dataclass(frozen=True)
class Kind:
    """A kind of objects."""

    name: str
    """As `kind` of a manifest: `RFTJob`."""
    group: str
    """API group; empty for the core group."""
    version: str
    """Version of the group."""
    plural: str
    """Name of the resource in paths and in roles: `rftjobs`."""
    verbs: tuple[str, ...]
    """What the operator does with objects of the kind, as its roles say it. Objects that it may watch are watched."""
    component: str | None = None
    """The component label of what belongs to an object of the kind; None for kinds that are not the project's own."""
    makes_pods: bool = False
    """Whether a controller of Kubernetes makes pods for it: it is applied last, when all that pods need exists."""
    own_namespace_only: bool = False
    """Whether the operator needs it in its own namespace only."""
    changes_owners: bool = False
    """Whether the operator changes owner references of objects that exist already."""

    @property
    def ours(self) -> bool:
        """Whether it is a resource of the project, which is reconciled."""
        return self.component is not None

    @property
    def watched(self) -> bool:
        """Whether the store holds its objects."""
        return "watch" in self.verbs

    @property
    def child(self) -> bool:
        """Whether its objects are watched because they belong to a resource of the project."""
        return self.watched and not self.ours

    @property
    def api_version(self) -> str:
        """Group and version as manifests spell them: `batch/v1`, `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Where paths of its API group begin: `/apis/batch/v1`, `/api/v1`."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    @property
    def selector(self) -> str | None:
        """Label selector of those objects that the operator watches; None when it watches all."""
        return f"{names.MANAGED_BY}={names.FIELD_MANAGER}" if self.child else None

    def child_labels(self, owner: str) -> dict[str, str]:
        """Labels of what belongs to the object `owner` of this kind; they also select it among others."""
        assert self.component is not None
        return {names.MANAGED_BY: names.FIELD_MANAGER, names.COMPONENT: self.component, names.OWNER: owner}


RFT_JOB: Final = Kind("RFTJob", GROUP, VERSION, "rftjobs", ("list", "watch"), component="trainer")
REWARD_FUNCTION: Final = Kind(
    "RewardFunction", GROUP, VERSION, "rewardfunctions", ("list", "watch"), component="reward-server"
)
INFERENCE_ENDPOINT: Final = Kind(
    "InferenceEndpoint",
    GROUP,
    VERSION,
    "inferenceendpoints",
    ("list", "watch", "create", "patch"),
    component="server",
    # A base endpoint hangs on all jobs that use it.
    changes_owners=True,
)

_APPLIED = ("get", "list", "watch", "create", "patch")
JOB: Final = Kind("Job", "batch", "v1", "jobs", ("get", "list", "watch", "create", "delete"), makes_pods=True)
CONFIG_MAP: Final = Kind("ConfigMap", "", "v1", "configmaps", (*_APPLIED, "delete"))
SERVICE: Final = Kind("Service", "", "v1", "services", _APPLIED)
NETWORK_POLICY: Final = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies", _APPLIED)
DEPLOYMENT: Final = Kind("Deployment", "apps", "v1", "deployments", _APPLIED, makes_pods=True)
POD: Final = Kind("Pod", "", "v1", "pods", ("list", "watch"))
# Tokens are written once and never read again.
SECRET: Final = Kind("Secret", "", "v1", "secrets", ("create",))
EVENT: Final = Kind("Event", "events.k8s.io", "v1", "events", ("create",))
LEASE: Final = Kind(
    "Lease", "coordination.k8s.io", "v1", "leases", ("get", "create", "update"), own_namespace_only=True
)

_ALL = (
    *(RFT_JOB, REWARD_FUNCTION, INFERENCE_ENDPOINT),
    *(JOB, CONFIG_MAP, SERVICE, NETWORK_POLICY, DEPLOYMENT, POD, SECRET, EVENT, LEASE),
)
KINDS: Final = {kind.name: kind for kind in _ALL}
"""Every kind, by name."""

OURS: Final = tuple(kind for kind in KINDS.values() if kind.ours)
"""The project's resources."""
WATCHED: Final = tuple(kind for kind in KINDS.values() if kind.watched)
"""Kinds whose objects the store holds."""
