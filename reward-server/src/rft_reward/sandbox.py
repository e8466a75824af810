"""What confines a worker: identity, namespaces, mounts, system calls, limits; runs inside the worker's process.

Standard library only, through ctypes where Python 3.11 has no wrapper. The facts about the system calls are from
their manual pages: user_namespaces(7), pid_namespaces(7), mount_setattr(2), capset(2), prctl(2), seccomp(2),
getrlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED_ID = 65534
MAXIMUM_PROCESSES = 64
MAXIMUM_OPEN_FILES = 128
MAXIMUM_FILE_BYTES = 16 * 1024 * 1024
SCRATCH_BYTES = 64 * 1024 * 1024
SCRATCH_FILES = 4096

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x1000, 1 << 18
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SYSTEM_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: what the kernel calls it (AUDIT_ARCH_*), and its number of socket(2)."""
_SYS_IO_URING_SETUP = 425
_MEDDLING = {
    "x86_64": ((62, 200, 234, 129, 297, 424, 101, 310, 311, 438), 302),
    "aarch64": ((129, 130, 131, 138, 240, 424, 117, 270, 271, 438), 261),
}
"""By machine: kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal, ptrace, process_vm_readv,
process_vm_writev, pidfd_getfd; and prlimit64."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Enclosure:
    """What a worker must not see or leave."""

    server_pid: int
    """Process whose death must end the worker."""
    scratch: str
    """The only folder that can be written to."""
    hidden_file: str | None
    """File of the server's that the worker must not read."""


def set_dumpable(dumpable: bool) -> None:
    """Sets whether processes of the same user may read this one's memory, environment and open files."""
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0))


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ended, so that none escapes by forking twice."""
    _check("prctl", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def enter(enclosure: Enclosure) -> tuple[list[str], int]:
    """Confines this process; returns, in the process that shall run the code, what the kernel refused.

    With namespaces, the code runs in a grandchild: this process stays behind as its supervisor, and a child of it is
    the namespace's init, so that killing either ends everything inside. Without, the code runs in this process. The
    second value is the number of generations between this process and the code's.

    Raises:
        OSError: when a limit that every kernel offers cannot be set.
    """
    warnings = []
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.geteuid() == 0:
        warnings += _become_unprivileged()
    refusal = _enter_namespaces()
    if refusal:
        warnings.append(
            f"namespaces are not available ({refusal}): reward code shares the process list and file system of this "
            "pod, and only file permissions confine it there"
        )
    else:
        try:
            _confine_file_system(enclosure)
        except OSError as error:
            warnings.append(f"the file system cannot be made read-only ({error}): only file permissions confine it")
    os.chdir(enclosure.scratch)
    end_with_parent()
    if os.getppid() != enclosure.server_pid:  # the server ended before its death could be noticed
        os._exit(1)
    if not refusal:
        warnings += _become_grandchild()
        os.setsid()
    _drop_capabilities()
    warnings += _forbid_sockets()
    adopt_orphans()
    set_dumpable(False)
    # A user namespace counts its processes from zero; without one, all of the user's count.
    _limit_resources(MAXIMUM_PROCESSES + (_tasks_of_this_user() if refusal else 0))
    return warnings, 0 if refusal else 2


def _limit_resources(processes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, MAXIMUM_OPEN_FILES),
        (resource.RLIMIT_FSIZE, MAXIMUM_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))


def limit_memory(extra_bytes: int) -> None:
    """Lets the address space of this process grow by `extra_bytes` from what it is now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra_bytes, used + extra_bytes))


def limit_processor_time(seconds: float) -> None:
    """Ends this process with SIGXCPU after about so many seconds of processor time from now, and each child likewise.

    A soft limit, set anew for each batch: without CAP_SYS_RESOURCE nobody could raise a hard one again. The time that
    a batch takes by the clock is bounded by the server.
    """
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(time.process_time() + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _become_unprivileged() -> list[str]:
    # Root is exempt from RLIMIT_NPROC and could read every file.
    folders = {path: os.open(path, os.O_RDONLY) for path in sys.path if Path(path).is_dir()}
    try:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    except OSError as error:
        return [f"the server runs as root and user {UNPRIVILEGED_ID} is not available ({error.strerror}): "
                "reward code runs as root, without a limit on processes"]  # fmt: skip
    # An interpreter below a folder like /root stays importable through the folders opened before.
    for path, descriptor in folders.items():
        if os.access(path, os.R_OK | os.X_OK):
            os.close(descriptor)
        else:
            _replace_path(path, f"/proc/self/fd/{descriptor}")
            os.set_inheritable(descriptor, False)
    return []


def _replace_path(old: str, new: str) -> None:
    sys.path[:] = [new if entry == old else entry for entry in sys.path]
    for module in list(sys.modules.values()):
        folders = getattr(module, "__path__", None)
        if isinstance(folders, list):
            folders[:] = [new + folder[len(old) :] if folder.startswith(old + "/") else folder for folder in folders]
    sys.path_importer_cache.clear()


def _enter_namespaces() -> str | None:
    """Moves this process to namespaces of its own (its children, for processes); returns why that was refused."""
    user, group = os.geteuid(), os.getegid()
    set_dumpable(True)  # otherwise root owns our /proc/self, and the maps below cannot be written
    flags = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
    if _libc.unshare(flags) != 0:
        return os.strerror(ctypes.get_errno())
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    return None


def _confine_file_system(enclosure: Enclosure) -> None:
    # struct mount_attr {attr_set, attr_clr, propagation, userns_fd}
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, _MS_PRIVATE, 0)
    _check(
        "mount_setattr",
        _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, ctypes.sizeof(attributes)),
    )
    options = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=700".encode()
    flags = _MS_NOSUID | _MS_NODEV
    _check("mount", _libc.mount(b"scratch", enclosure.scratch.encode(), b"tmpfs", flags, options))
    if enclosure.hidden_file is not None and os.access(enclosure.hidden_file, os.R_OK):
        _check("mount", _libc.mount(b"/dev/null", enclosure.hidden_file.encode(), None, _MS_BIND, None))


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    _check("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))


def _forbid_sockets() -> list[str]:
    """Refuses new sockets, whether or not there are namespaces; returns what went wrong.

    A network namespace alone would still let the code talk to the sockets in the file system, such as a container
    engine's. io_uring is refused because it opens sockets without a system call of its own.
    """
    machine = os.uname().machine
    if machine not in _SYSTEM_CALLS:
        return [f"sockets cannot be forbidden on {machine}: reward code may reach the network"]
    architecture, socket = _SYSTEM_CALLS[machine]
    load, equal, greater, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ, BPF_JMP|JGE, BPF_RET
    instructions = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 5, architecture),  # another one would have other numbers: all refused
        (load, 0, 0, 0),  # seccomp_data.nr
        (greater, 3, 0, 0x40000000),  # the x32 calls of x86-64: all refused
        (equal, 2, 0, socket),
        (equal, 1, 0, _SYS_IO_URING_SETUP),
        (give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        (give, 0, 0, 0x00050000 | errno.EACCES),  # SECCOMP_RET_ERRNO
    ]
    try:
        _load_filter(instructions)
    except OSError as error:
        return [f"sockets cannot be forbidden ({error}): only namespaces and the NetworkPolicy close the network"]
    return []


def forbid_meddling() -> None:
    """Refuses this process and its children system calls that end, stop, limit or watch other processes.

    For completions that run as processes: the worker is of the same user. Where the machine's numbers are unknown, or
    filters are not available, nothing is refused.
    """
    machine = os.uname().machine
    if machine not in _MEDDLING:
        return
    load, equal, give = 0x20, 0x15, 0x06
    calls, prlimit = _MEDDLING[machine]
    refusals = [(equal, len(calls) - index + 2, 0, call) for index, call in enumerate(calls)]
    instructions = [
        (load, 0, 0, 0),  # seccomp_data.nr; other architectures and x32 are refused by the worker's own filter
        *refusals,
        (equal, 0, 3, prlimit),
        (load, 0, 0, 16),  # the process that the limit is for
        (equal, 1, 0, 0),
        (give, 0, 0, 0x00050000 | errno.EPERM),
        (give, 0, 0, 0x7FFF0000),
    ]
    _load_filter(instructions)


def _load_filter(instructions: list[tuple[int, int, int, int]]) -> None:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    _check("prctl", _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends; every change of identity clears it."""
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _become_grandchild() -> list[str]:
    """Returns in a new process under a namespace's init; the processes left behind end as it ends."""
    init = os.fork()
    if init:
        _drop_capabilities()
        _leave_pipes()
        _exit_like(os.waitpid(init, 0)[1])
    end_with_parent()
    warnings = []
    try:
        # Shows the processes of this namespace only.
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _check("mount", _libc.mount(b"proc", b"/proc", b"proc", flags, None))
    except OSError as error:
        warnings.append(f"/proc cannot be mounted anew ({error}): reward code sees the list of processes")
    _drop_capabilities()
    worker = os.fork()
    if worker:
        _leave_pipes()
        while True:
            ended, status = os.wait()
            if ended == worker:
                _exit_like(status)
    end_with_parent()
    return warnings


def _leave_pipes() -> None:
    # The server sees the end of the worker as the end of its pipes: nobody else may hold them.
    os.closerange(0, 1 << 16)


def _exit_like(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _tasks_of_this_user() -> int:
    """Processes and threads of this user that can be seen: the kernel counts them against the same limit."""
    user, tasks = str(os.getuid()), 0
    for file in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = file.read_text(errors="replace").splitlines()
            status = dict(line.split(":", 1) for line in lines if ":" in line)
        except OSError:  # it ended meanwhile
            continue
        if status["Uid"].split()[0] == user:
            tasks += int(status["Threads"])
    return tasks


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
