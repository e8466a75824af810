"""What the operator may do: the source of its roles and of the table in docs/operator.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rft_api.resource import GROUP
from rft_operator.kube import names

Json = dict[str, Any]

_OWNERS = ("rftjobs", "rewardfunctions", "inferenceendpoints")
_PLUGIN = "where OwnerReferencesPermissionEnforcement is on"


@dataclass(frozen=True)
class Right:
    """Verbs on resources of one API group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    only: str = ""
    """Where and for what it is needed; everywhere, when empty."""


EVERYWHERE = (
    Right(GROUP, ("rftjobs", "rewardfunctions"), ("list", "watch")),
    Right(GROUP, ("inferenceendpoints",), ("list", "watch", "create", "patch")),
    Right(GROUP, tuple(f"{name}/status" for name in _OWNERS), ("patch",)),
    Right(
        GROUP,
        tuple(f"{name}/finalizers" for name in _OWNERS),
        ("update",),
        f"{_PLUGIN}, for children that block their deletion",
    ),
    Right(GROUP, ("inferenceendpoints",), ("delete",), f"{_PLUGIN}, to change the owners of a base endpoint"),
    Right("batch", ("jobs",), ("get", "list", "watch", "create", "delete")),
    Right("", ("configmaps",), ("get", "list", "watch", "create", "patch", "delete")),
    Right("", ("services",), ("get", "list", "watch", "create", "patch")),
    Right("networking.k8s.io", ("networkpolicies",), ("get", "list", "watch", "create", "patch")),
    Right("apps", ("deployments",), ("get", "list", "watch", "create", "patch")),
    Right("", ("pods",), ("list", "watch")),
    Right("", ("secrets",), ("create",)),
    Right("events.k8s.io", ("events",), ("create",)),
)
"""Rights in all namespaces that it looks after."""
AT_HOME = (Right("coordination.k8s.io", ("leases",), ("get", "create", "update")),)
"""Rights in the operator's own namespace."""


def build_cluster_role() -> Json:
    """The ClusterRole of an operator that looks after all namespaces."""
    return _role("ClusterRole", {"name": names.FIELD_MANAGER}, EVERYWHERE)


def build_watch_role(namespace: str) -> Json:
    """The Role in a namespace that it looks after, of an operator that looks after some."""
    return _role("Role", {"name": f"{names.FIELD_MANAGER}-watch", "namespace": namespace}, EVERYWHERE)


def build_role(namespace: str) -> Json:
    """The Role with the rights in the operator's own namespace."""
    return _role("Role", {"name": names.FIELD_MANAGER, "namespace": namespace}, AT_HOME)


def render_table() -> str:
    """The table of the documentation."""
    rows = [
        *(_row(right, "") for right in EVERYWHERE),
        *(_row(right, ", in its own namespace") for right in AT_HOME),
    ]
    return "".join(["| Resource | Verbs |\n|---|---|\n", *rows])


def _role(kind: str, metadata: Json, rights: tuple[Right, ...]) -> Json:
    rules = [
        {"apiGroups": [right.group], "resources": list(right.resources), "verbs": list(right.verbs)} for right in rights
    ]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules}


def _row(right: Right, where: str) -> str:
    resources = ", ".join(f"`{name}`" for name in right.resources)
    group = f" ({right.group})" if right.group else ""
    only = f" (only {right.only})" if right.only else ""
    return f"| {resources}{group}{where} | {', '.join(right.verbs)}{only} |\n"
