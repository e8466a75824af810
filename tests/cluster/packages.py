"""The system's programs that a node consists of; installed from the distribution's packages when missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cluster.cache import Report, locked
from cluster.commands import run_reported

CNI = Path("/usr/lib/cni")
_PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
    "mount": "mount",
}
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def missing_packages() -> list[str]:
    """Debian packages whose programs this machine lacks."""
    missing = {package for name, package in _PROGRAMS.items() if not shutil.which(name, path=SEARCH_PATH)}
    if not (CNI / "bridge").exists():
        missing.add("containernetworking-plugins")
    return sorted(missing)


def install_packages(report: Report) -> None:
    """Installs what is missing."""
    with locked("packages", report):
        missing = missing_packages()
        if not missing:
            return
        report(f"Installing {' '.join(missing)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            run_reported(["apt-get", "-q", *command], "Installing Debian packages", report, environment=environment)
