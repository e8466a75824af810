"""Limits of the names of a reward's components, which become series, columns and lines of tables."""

from __future__ import annotations

import hashlib
from typing import Final

from rft_api.foreign.text import one_line

MOST_RECORDED_NAMES: Final = 64
"""Largest number of names that are recorded: of a completion, of a run, and of a reward server. Each is a series of
Prometheus, a column of a file, and a line of a table."""
LONGEST_NAME: Final = 128
"""Largest number of characters of a name; longer ones are cut."""


def component_name(name: str) -> str:
    """Return the name under which a component is recorded.

    One that is too long, or has characters that cannot be seen, is shown as a text of one line with a digest of the
    whole name, so that it equals no other name.
    """
    if len(name) <= LONGEST_NAME and name.isprintable():
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{one_line(name, LONGEST_NAME // 2)} #{digest}"
