"""Makes text from code and completions valid for JSON and logs."""

from __future__ import annotations


def writable(text: str) -> str:
    """Replace the characters that UTF-8 cannot encode: halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()
