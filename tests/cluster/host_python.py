"""This machine's Python environment inside pods, mounted from the host: an image of it would be several GB.

Only for pods in tests. It needs hostPath volumes, which Pod Security allows only in privileged namespaces.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

_PYTHON = "/opt/python"
_PACKAGES = "/opt/packages"


def mount_host_python(pod_spec: dict[str, Any]) -> None:
    """Changes a pod's spec so that `python3` in each of its containers is this Python with all its packages."""
    folders = {_PYTHON: Path(sys.base_prefix), _PACKAGES: _site_packages()}
    # Packages of this repository are installed as links to their sources; seen at the same place in the pod.
    sources = _linked_sources()
    folders |= {str(source): source for source in sources}
    variables = {
        "PATH": f"{_PYTHON}/bin:/usr/local/bin:/usr/bin:/bin",
        # Before the image's own libpython, which may be of another patch version.
        "LD_LIBRARY_PATH": f"{_PYTHON}/lib",
        "PYTHONPATH": ":".join([_PACKAGES, *map(str, sources)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    volumes = pod_spec.setdefault("volumes", [])
    names = {place: f"host-python-{number}" for number, place in enumerate(folders)}
    for place, folder in folders.items():
        volumes.append({"name": names[place], "hostPath": {"path": str(folder), "type": "Directory"}})
    for container in pod_spec["containers"]:
        mounts = container.setdefault("volumeMounts", [])
        mounts += [{"name": names[place], "mountPath": place, "readOnly": True} for place in folders]
        container.setdefault("env", []).extend({"name": name, "value": value} for name, value in variables.items())


def _site_packages() -> Path:
    return Path(sysconfig.get_path("purelib")).resolve()


def _linked_sources() -> list[Path]:
    lines = [line for file in sorted(_site_packages().glob("*.pth")) for line in file.read_text().splitlines()]
    return [Path(line) for line in lines if line.startswith("/") and Path(line).is_dir()]
