"""Addresses of models on the Hugging Face hub: `hf://OWNER/NAME` and `hf://OWNER/NAME@REVISION`."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "hf://"
SHAPE = "hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
PATTERN = r"([^/@\s]+/[^/@\s]+)(?:@(\S+))?"
"""What follows the scheme. A revision is a branch, a tag or a commit, and may hold slashes."""


@dataclass(frozen=True)
class HubAddress:
    """A model on the hub."""

    repository: str
    """OWNER/NAME."""
    revision: str | None = None
    """Branch, tag or commit; the main branch when absent."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_address(text: str) -> HubAddress | None:
    """The model that an address names, with or without its scheme; None when it has another shape."""
    match = re.fullmatch(PATTERN, text.removeprefix(SCHEME))
    return HubAddress(match.group(1), match.group(2)) if match else None
