"""Runs in an image, as root, and prints what it finds among all files, as JSON. Standard library only."""

import importlib.util
import json
import os
import stat
import struct
from pathlib import Path

USER = 65532
NOT_THE_IMAGE = {"/proc", "/sys", "/dev"}
REWARD_PACKAGES = "/opt/reward-packages"
"""Folder of packages that only the reward server's image has."""


def survey() -> dict[str, list[str]]:
    """Paths that the user may change, that give rights, that have no bytecode, and all outside of the environment."""
    found: dict[str, list[str]] = {"writable": [], "privileged": [], "uncompiled": [], "outside": []}
    for folder, subfolders, files in os.walk("/"):
        subfolders[:] = [name for name in subfolders if str(Path(folder, name)) not in NOT_THE_IMAGE]
        for path in (Path(folder, name) for name in (*subfolders, *files)):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                continue
            if may_write(status):
                found["writable"].append(str(path))
            if stat.S_ISREG(status.st_mode) and gives_rights(path, status):
                found["privileged"].append(str(path))
            if (
                path.suffix == ".py"
                and ("/lib/python3" in folder or folder.startswith(REWARD_PACKAGES))
                and not is_compiled(path)
            ):
                found["uncompiled"].append(str(path))
            if not folder.startswith(("/opt/rft", REWARD_PACKAGES)):
                found["outside"].append(str(path))
    return {name: sorted(paths) for name, paths in found.items()}


def may_write(status: os.stat_result) -> bool:
    group = status.st_gid == USER and status.st_mode & stat.S_IWGRP
    return bool(status.st_uid == USER or group or status.st_mode & stat.S_IWOTH)  # owners may make theirs writable


def gives_rights(path: Path, status: os.stat_result) -> bool:
    return bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID)) or "security.capability" in os.listxattr(path)


def is_compiled(path: Path) -> bool:
    """Whether Python would use the file's bytecode, or could not read the file anyway."""
    compiled = Path(importlib.util.cache_from_source(str(path)))
    if not compiled.exists():
        try:
            compile(path.read_bytes(), str(path), "exec")
        except (SyntaxError, ValueError):  # a template, or a test's bad example
            return True
        return False
    with compiled.open("rb") as file:
        magic, flags, modified, size = struct.unpack("<4sIII", file.read(16))
    source = path.stat()
    return bool(
        magic == importlib.util.MAGIC_NUMBER and (flags or (modified, size) == (int(source.st_mtime), source.st_size))
    )


if __name__ == "__main__":
    print(json.dumps(survey()))
