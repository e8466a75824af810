"""Text from code and completions, made fit for JSON and logs."""

from __future__ import annotations


def writable(text: str) -> str:
    """The text with what UTF-8 cannot carry, halves of surrogate pairs, replaced."""
    return text.encode("utf-8", "replace").decode()
