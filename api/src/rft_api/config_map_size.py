"""Whether what a resource says fits into the ConfigMap that the operator makes from it, and what takes the room."""

from __future__ import annotations

import json
from typing import Any, Final

from rft_api.model import Location, Violation

CONFIG_MAP_BYTES: Final = 1024 * 1024
"""Largest number of bytes in the values of a ConfigMap (Kubernetes, `MaxSecretSize`)."""


def json_bytes(value: Any) -> int:
    """Return the number of bytes of a value as JSON, in which a newline or a quotation mark takes two."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def size_violation(value: Any, location: Location, total: int, advice: str) -> Violation:
    """Return the violation of a ConfigMap that is too large, at the field that takes most of it.

    Args:
        value: what the ConfigMap is made from, as JSON objects and lists.
        location: its location in the manifest.
        total: the number of bytes in the values of the ConfigMap.
        advice: what the user can do; it ends the message.
    """
    location, part = _largest_part(value, location)
    return Violation(
        f"has {json_bytes(part):,} bytes as JSON, and the ConfigMap that the operator makes from it would have "
        f"{total:,}; Kubernetes allows {CONFIG_MAP_BYTES:,}: {advice}",
        location,
    )


def _largest_part(value: Any, location: Location) -> tuple[Location, Any]:
    """Return the innermost part of a value that has more than half of its bytes, with its location."""
    half = json_bytes(value) / 2
    while True:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        largest = max(items, key=lambda item: json_bytes(item[1]), default=None)
        if largest is None or json_bytes(largest[1]) <= half:
            return location, value
        location, value = (*location, largest[0]), largest[1]
