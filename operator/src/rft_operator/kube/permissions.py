"""The permissions of the operator: its roles, and their table in docs/operator.md. Both are derived from the kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from rft_api.model import Json
from rft_api.resource import GROUP
from rft_operator.kube import names
from rft_operator.kube.kinds import KINDS, OURS, Kind

_PLUGIN = "where OwnerReferencesPermissionEnforcement is on"


@dataclass(frozen=True)
class Permission:
    """A rule of a role: verbs on resources of one API group."""

    group: str
    resources: tuple[str, ...]
    """Plural names of resources, or of subresources: `rftjobs/status`."""
    verbs: tuple[str, ...]
    only: str = ""
    """Condition under which the permission is needed; empty when it is always needed."""


def _of_verbs(kinds: Iterable[Kind]) -> Iterator[Permission]:
    """Yield the permissions for some kinds; adjacent kinds of one group with equal verbs share a rule."""
    for (group, verbs), same in groupby(kinds, key=lambda kind: (kind.group, kind.verbs)):
        yield Permission(group, tuple(kind.plural for kind in same), verbs)


def _of_resources() -> Iterator[Permission]:
    """Yield the permissions for the resources of the project."""
    yield from _of_verbs(OURS)
    yield Permission(GROUP, tuple(f"{kind.plural}/status" for kind in OURS), ("patch",))
    finalizers = tuple(f"{kind.plural}/finalizers" for kind in OURS)
    yield Permission(GROUP, finalizers, ("update",), f"{_PLUGIN}, for owner references that block deletion")
    changing = tuple(kind.plural for kind in OURS if kind.changes_owners)
    yield Permission(GROUP, changing, ("delete",), f"{_PLUGIN}, to change the owners of a base endpoint")


_OTHERS = [kind for kind in KINDS.values() if not kind.ours]

EVERYWHERE = (
    *_of_resources(),
    *_of_verbs(kind for kind in _OTHERS if not (kind.own_namespace_only or kind.cluster_scoped)),
)
"""Permissions in every namespace that the operator watches."""
CLUSTER = tuple(_of_verbs(kind for kind in _OTHERS if kind.cluster_scoped))
"""Permissions on objects without a namespace, which an operator that watches some namespaces only does without."""
OWN_NAMESPACE = tuple(_of_verbs(kind for kind in _OTHERS if kind.own_namespace_only))
"""Permissions in the operator's own namespace."""


def build_cluster_role() -> Json:
    """Build the ClusterRole of an operator that watches all namespaces."""
    return _role("ClusterRole", {"name": names.FIELD_MANAGER}, (*EVERYWHERE, *CLUSTER))


def build_watch_role(namespace: str) -> Json:
    """Build the Role in one of the namespaces that an operator watches, when it does not watch all."""
    return _role("Role", {"name": f"{names.FIELD_MANAGER}-watch", "namespace": namespace}, EVERYWHERE)


def build_role(namespace: str) -> Json:
    """Build the Role with the permissions in the operator's own namespace."""
    return _role("Role", {"name": names.FIELD_MANAGER, "namespace": namespace}, OWN_NAMESPACE)


def render_table() -> str:
    """Render the table for the documentation."""
    rows = [
        *(_row(permission, "") for permission in EVERYWHERE),
        *(_row(permission, ", unless it watches some namespaces only") for permission in CLUSTER),
        *(_row(permission, ", in its own namespace") for permission in OWN_NAMESPACE),
    ]
    return "".join(["| Resource | Verbs |\n|---|---|\n", *rows])


def _role(kind: str, metadata: Json, permissions: tuple[Permission, ...]) -> Json:
    rules = [
        {"apiGroups": [permission.group], "resources": list(permission.resources), "verbs": list(permission.verbs)}
        for permission in permissions
    ]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules}


def _row(permission: Permission, where: str) -> str:
    resources = ", ".join(f"`{name}`" for name in permission.resources)
    group = f" ({permission.group})" if permission.group else ""
    only = f" (only {permission.only})" if permission.only else ""
    return f"| {resources}{group}{where} | {', '.join(permission.verbs)}{only} |\n"
