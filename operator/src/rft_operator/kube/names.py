"""The names and label keys with which the operator marks its objects."""

from __future__ import annotations

from typing import Final

FIELD_MANAGER: Final = "rft-operator"
"""Field manager of server-side apply, and value of the label `MANAGED_BY`."""
LEASE: Final = "rft-operator"
"""Name of the Lease of the leader election."""

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
COMPONENT: Final = "app.kubernetes.io/component"
OWNER: Final = "rft.dev/owner"
"""Label of a child with the name of the resource that it belongs to."""
