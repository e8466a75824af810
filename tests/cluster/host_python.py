"""This machine's Python environment inside pods: as part of an image it would be several GB.

The node's runtime mounts it read-only into every container (`mounts`), so that pods need no hostPath volumes, which
Pod Security `restricted` refuses. Only images made from `write_dockerfile` find it on their search path; what such an
image lacks, compared with a real one, is nothing but the copy.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

_PYTHON = "/opt/host/python"
# Libraries tell packages from programs by this name (dill pickles the modules of the latter).
_PACKAGES = "/opt/host/site-packages"


def mounts() -> list[dict[str, Any]]:
    """Mounts as the OCI runtime specification writes them."""
    return [
        {"destination": place, "type": "bind", "source": str(folder), "options": ["rbind", "ro"]}
        for place, folder in _folders().items()
    ]


def write_dockerfile(folder: Path) -> None:
    """Writes the Dockerfile of an image in which `python` is this Python with all its packages."""
    variables = {
        "PATH": f"{_PYTHON}/bin:/usr/local/bin:/usr/bin:/bin",
        # Before the image's own libpython, which may be of another patch version.
        "LD_LIBRARY_PATH": f"{_PYTHON}/lib",
        "PYTHONPATH": ":".join([_PACKAGES, *map(str, _linked_sources())]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # as the Dockerfile has it, and libnuma1 below
    }
    install = "apt-get -qq update && apt-get -qq install --yes --no-install-recommends"
    lines = [
        "ARG BASE",
        "FROM ${BASE}",
        f"RUN {install} libnuma1",
        *(f"ENV {name}={value}" for name, value in variables.items()),
        "USER 65532",
    ]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _folders() -> dict[str, Path]:
    # Packages of this repository are installed as links to their sources; seen at the same place in the pod.
    sources = {str(source): source for source in _linked_sources()}
    return {_PYTHON: Path(sys.base_prefix), _PACKAGES: Path(sysconfig.get_path("purelib")).resolve(), **sources}


def _linked_sources() -> list[Path]:
    packages = Path(sysconfig.get_path("purelib"))
    lines = [line for file in sorted(packages.glob("*.pth")) for line in file.read_text().splitlines()]
    return [Path(line) for line in lines if line.startswith("/") and Path(line).is_dir()]
