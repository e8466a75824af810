"""Volumes that several pods of the test node share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

POD_USER = 65532


def shared_volume(folder: Path, claim: str) -> list[dict[str, Any]]:
    """A volume that every node has, as a network file system is, and a claim to it.

    Args:
        folder: a new folder of this machine, whose name becomes that of the volume.
        claim: name of the claim.
    """
    folder.mkdir()
    folder.chmod(0o770)
    name, size = folder.name, {"storage": "1Gi"}
    shared = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    os.chown(folder, POD_USER, POD_USER)
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {**shared, "capacity": size, "hostPath": {"path": str(folder)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim},
            "spec": {**shared, "volumeName": name, "resources": {"requests": size}},
        },
    ]
