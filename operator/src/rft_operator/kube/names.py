"""The names and label keys with which the operator marks its objects."""

from __future__ import annotations

from typing import Final

from rft_api.object_labels import COMPONENT, MANAGED_BY, OPERATOR, OWNER

__all__ = ["COMPONENT", "FIELD_MANAGER", "LEASE", "MANAGED_BY", "OWNER"]

FIELD_MANAGER: Final = OPERATOR
"""Field manager of server-side apply, and value of the label `MANAGED_BY`."""
LEASE: Final = "rft-operator"
"""Name of the Lease of the leader election."""
