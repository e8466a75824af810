"""The documentation's pages as tests read them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    """The text of a page below docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """What stands in a page's blocks of a language (`sh`, `yaml`), one after the other."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)


def script(text: str, *left_out: str) -> str:
    """A page's commands as one script that ends at the first that fails.

    `left_out` are lines that are not run; AssertionError when the page does not have them.
    """
    commands = "".join(blocks(text, "sh"))
    for line in left_out:
        assert f"{line}\n" in commands, f"{line!r} is not a command of the page"
        commands = commands.replace(f"{line}\n", "")
    return f"set -euo pipefail\n{commands}"


class Commands:
    """A page's commands while they run, ended with everything that they started."""

    def __init__(self, text: str, folder: Path, environment: Mapping[str, str]):
        self._process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def finish(self) -> str:
        """What they wrote, once they are through. They have no time limit but their own and that of the test."""
        output, errors = self._process.communicate()
        assert self._process.returncode == 0, output + errors
        return output
