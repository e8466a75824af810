"""The documentation's pages as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    """The text of a page below docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def shell_blocks(text: str) -> list[str]:
    """What stands in a page's blocks of shell commands, one after the other."""
    return re.findall(r"^ *```sh\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)


def script(text: str, *left_out: str) -> str:
    """A page's commands as one script that ends at the first that fails.

    `left_out` are lines that are not run; AssertionError when the page does not have them.
    """
    commands = "".join(shell_blocks(text))
    for line in left_out:
        assert f"{line}\n" in commands, f"{line!r} is not a command of the page"
        commands = commands.replace(f"{line}\n", "")
    return f"set -euo pipefail\n{commands}"
