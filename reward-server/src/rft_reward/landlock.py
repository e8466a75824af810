"""Landlock: denies this process access to files, the network and other processes, and needs no privileges for it.

The system calls are made with ctypes, because there is no maintained library: the one on PyPI is a development release.
The facts are from landlock(7) and the kernel's Documentation/userspace-api/landlock.rst. What the ABI version
of this kernel does not support is left out, and the result says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REFER, _TRUNCATE, _IOCTL_DEV = (
    1 << bit for bit in (0, 1, 2, 3, 13, 14, 15)
)
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_CONNECT_AND_BIND_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a rule for a file may grant. All other rights are for folders only."""
_READ = _EXECUTE | _READ_FILE | _READ_DIR

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Granted:
    """What the kernel denies from now on."""

    files: bool
    """Whether it denies access to files outside of the named folders (Linux 5.13)."""
    network: bool
    """Whether it denies TCP connections (Linux 6.7)."""
    signals: bool
    """Whether it denies signals to less restricted processes, and abstract Unix sockets (Linux 6.12)."""
    truncation: bool
    """Whether `files` includes truncating a file by its path (Linux 6.2)."""


def restrict(readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> Granted:
    """Confine this thread, and everything that it starts, to the files below the paths.

    Writable paths are also readable, and paths that do not exist are skipped. The network and signals to other
    processes are denied as well, as far as the kernel supports it. The process must have no_new_privs.
    """
    abi = version()
    if abi < 1:
        return Granted(False, False, False, False)
    files = handled_files(abi)
    network = _CONNECT_AND_BIND_TCP if abi >= 4 else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= 6 else 0
    try:
        ruleset = _create_ruleset(files, network, scopes)
    except OSError as error:
        if error.errno != errno.EINVAL or not scopes:
            raise
        scopes = 0  # kernels of Red Hat report version 6 but do not support scopes
        ruleset = _create_ruleset(files, network, scopes)
    all_but_devices = files & ~(_MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK | _IOCTL_DEV)
    try:
        for paths, rights in ((readable, _READ), (writable, all_but_devices), (devices, _FILE_RIGHTS & ~_EXECUTE)):
            for path in paths:
                _add_rule(ruleset, path, rights & files)
        _check("landlock_restrict_self", _libc.syscall(_SYS_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return Granted(True, bool(network), bool(scopes), abi >= 3)


def version() -> int:
    """Return the ABI version of the kernel's Landlock; 0 without Landlock."""
    return max(0, int(_libc.syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)))


def handled_files(abi: int) -> int:
    """Return all rights on files of an ABI version."""
    newest = 12 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << (newest + 1)) - 1


def _create_ruleset(files: int, network: int, scopes: int) -> int:
    attributes = struct.pack("=QQQ", files, network, scopes)  # struct landlock_ruleset_attr
    return _check("landlock_create_ruleset", _libc.syscall(_SYS_CREATE_RULESET, attributes, len(attributes), 0))


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    with _opened(path) as descriptor:
        if descriptor is None:
            return
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, descriptor)  # struct landlock_path_beneath_attr
        _check("landlock_add_rule", _libc.syscall(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(call: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result
