"""Says how large something is."""

from __future__ import annotations


def format_size(size: int) -> str:
    """Return a number of bytes as people say it: 64 KiB, 8 MiB."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
