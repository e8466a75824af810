"""Names and label keys by which the operator recognises what is its own."""

from __future__ import annotations

import hashlib
from typing import Final

FIELD_MANAGER: Final = "rft-operator"
LEASE: Final = "rft-operator"

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
COMPONENT: Final = "app.kubernetes.io/component"
OWNER: Final = "rft.dev/owner"
"""Label of a child: the name of the object that it belongs to."""

_DNS_LABEL = 63


def bounded(name: str, suffix: str, limit: int = _DNS_LABEL) -> str:
    """`NAME-SUFFIX`, with the name's end replaced by a digest of it where the whole would be too long."""
    whole = f"{name}-{suffix}"
    if len(whole) <= limit:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    end = f"-{digest}-{suffix}"
    return name[: limit - len(end)].rstrip("-") + end
