"""The names and label keys with which the operator marks its objects, and a rule for the length of names."""

from __future__ import annotations

import hashlib
from typing import Final

FIELD_MANAGER: Final = "rft-operator"
"""Field manager of server-side apply, and value of the label `MANAGED_BY`."""
LEASE: Final = "rft-operator"
"""Name of the Lease of the leader election."""

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
COMPONENT: Final = "app.kubernetes.io/component"
OWNER: Final = "rft.dev/owner"
"""Label of a child with the name of the resource that it belongs to."""

_DNS_LABEL = 63
"""Largest number of characters in a DNS label (RFC 1123)."""


def bounded(name: str, suffix: str, limit: int = _DNS_LABEL) -> str:
    """Return `NAME-SUFFIX`; where that is longer than the limit, a digest replaces the end of the name."""
    whole = f"{name}-{suffix}"
    if len(whole) <= limit:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    end = f"-{digest}-{suffix}"
    return name[: limit - len(end)].rstrip("-") + end
