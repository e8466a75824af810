"""The mounts of a worker in a namespace of its own: everything is read-only, and /tmp is its own and writable.

The facts about the system calls are from their manual pages: mount(2), mount_setattr(2), mount_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC = 0x1, 0x2, 0x4, 0x8, 0x1000, 0x4000
_MS_PRIVATE = 1 << 18
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
_TMP = "/tmp"

_libc = ctypes.CDLL(None, use_errno=True)


def confine_file_system(
    scratch: str, hidden_file: str | None, readable: Sequence[str], most_bytes: int, most_files: int
) -> str:
    """Make all files read-only, hide a file, and mount the file system that the worker writes to. Return its folder.

    It is /tmp, as in AWS Lambda, where the code may not write to the /tmp of the machine.

    Args:
        scratch: the folder to use if the code may read all of /tmp, or there is no /tmp.
        hidden_file: file that the worker must not read.
        readable: files and folders that the worker reads. Those below /tmp stay there.
        most_bytes: size of the file system.
        most_files: maximum number of its files.

    Raises:
        OSError: the kernel refuses a mount.
    """
    # struct mount_attr {attr_set, attr_clr, propagation, userns_fd}
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, _MS_PRIVATE, 0)
    size = ctypes.sizeof(attributes)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, size)
    _check("mount_setattr", result)
    if hidden_file is not None and os.access(hidden_file, os.R_OK):
        _mount("/dev/null", hidden_file, None, _MS_BIND)
    folder = scratch if _TMP in readable or not Path(_TMP).is_dir() else _TMP
    kept = _open_below(folder, readable)
    options = f"size={most_bytes},nr_inodes={most_files},mode=700"
    _mount("scratch", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for path, descriptor in kept.items():
        _bind(descriptor, Path(path))
        os.close(descriptor)
    return folder


def mount_own_processes() -> None:
    """Mount a /proc that shows only the processes of this namespace.

    Raises:
        OSError: the kernel refuses it.
    """
    _mount("proc", "/proc", "proc", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def _open_below(folder: str, paths: Sequence[str]) -> dict[str, int]:
    """Open those of the paths that exist below a folder, but not those below others of them."""
    opened: dict[str, int] = {}
    for path in sorted(set(paths), key=len):
        if Path(path).is_relative_to(folder) and not any(Path(path).is_relative_to(other) for other in opened):
            with contextlib.suppress(OSError):
                opened[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
    return opened


def _bind(descriptor: int, path: Path) -> None:
    """Mount an open file or folder, with the mounts below it, at a path that does not exist yet."""
    source = f"/proc/self/fd/{descriptor}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        path.mkdir()
    else:
        path.touch()
    _mount(source, str(path), None, _MS_BIND | _MS_REC)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = (text if text is None else text.encode() for text in (source, target, kind))
    _check("mount", _libc.mount(*encoded, flags, None if options is None else options.encode()))


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
