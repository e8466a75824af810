"""What confines a worker: identity, namespaces, mounts, Landlock, system calls, limits; runs inside its process.

Standard library only, through ctypes where Python 3.11 has no wrapper. The facts about the system calls are from
their manual pages: user_namespaces(7), pid_namespaces(7), mount_setattr(2), capset(2), prctl(2), getrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rft_reward import landlock, system_calls

UNPRIVILEGED_ID = 65534
MAXIMUM_PROCESSES = 64
MAXIMUM_OPEN_FILES = 128
MAXIMUM_FILE_BYTES = 16 * 1024 * 1024
SCRATCH_BYTES = 64 * 1024 * 1024
SCRATCH_FILES = 4096

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x1000, 1 << 18
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_READABLE = """
    /usr /bin /sbin /lib /lib64 /sys/devices/system /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg /proc/sys
    /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/alternatives /etc/localtime /etc/timezone /etc/passwd
    /etc/group /etc/nsswitch.conf /etc/mime.types /etc/ssl/openssl.cnf /etc/pki/tls/openssl.cnf /etc/crypto-policies
"""
"""What programs and libraries read, besides Python's own folders: nothing in there is anybody's secret."""
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]

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
    readable: list[str]
    """Files and folders that the code may read besides Python's and the system's."""


@dataclass(frozen=True)
class Confinement:
    """What of the sandbox this kernel and user allow."""

    generations: int
    """Processes between the one that entered and the one that runs the code."""
    layers: dict[str, bool]
    """Every layer, by name, and whether it is there."""
    refusals: list[str]
    """Why layers are missing."""
    warnings: list[str]
    """What reward code can do that it should not."""


LAYERS = ("namespaces", "landlock_files", "landlock_network", "landlock_signals", "seccomp", "unprivileged")
"""Names of the layers that depend on kernel and user; limits and an empty environment are everywhere."""


def open_doors(layers: dict[str, bool]) -> list[str]:
    """What reward code can do because layers are missing; nothing when what is there closes everything."""
    doors = []
    if not layers["unprivileged"]:
        doors.append("reward code runs as root, without a limit on processes")
    if not layers["seccomp"]:
        doors.append("system calls are not filtered: reward code may reach sockets, and parts of the kernel")
    if layers["namespaces"]:
        return doors
    if not layers["landlock_files"]:
        doors.append(
            "reward code reads what the server's user can, the token's file included, and writes where that user can"
        )
    if not layers["landlock_signals"]:
        doors.append("reward code can end other workers of the server")
    return doors


def set_dumpable(dumpable: bool) -> None:
    """Sets whether processes of the same user may read this one's memory, environment and open files."""
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0))


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ended, so that none escapes by forking twice."""
    _check("prctl", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


@dataclass
class _Progress:
    layers: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(LAYERS, False))
    refusals: list[str] = field(default_factory=list)


def enter(enclosure: Enclosure) -> Confinement:
    """Confines this process; returns, in the process that shall run the code, what that came to.

    With namespaces, the code runs in a grandchild: this process stays behind as its supervisor, and a child of it is
    the namespace's init, so that killing either ends everything inside. Without, the code runs in this process.

    Raises:
        OSError: when a limit that every kernel offers cannot be set.
    """
    done = _Progress()
    with contextlib.suppress(OSError):  # where memory runs out, the kernel is to end this process before the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    readable = _readable_folders(enclosure)
    done.layers["unprivileged"] = os.geteuid() != 0 or _become_unprivileged(done)
    refusal = _enter_namespaces()
    # The folders of the interpreter may be reachable through descriptors only, by now.
    readable += [path for path in sys.path if path.startswith("/proc/self/fd/")]
    confined = False
    if refusal:
        done.refusals.append(f"namespaces are not available ({refusal})")
    else:
        try:
            _confine_file_system(enclosure)
            confined = True
        except OSError as error:
            done.refusals.append(f"the file system cannot be made read-only ({error})")
    os.chdir(enclosure.scratch)
    end_with_parent()
    if os.getppid() != enclosure.server_pid:  # the server ended before its death could be noticed
        os._exit(1)
    own_processes = False
    if not refusal:
        own_processes = _become_grandchild(done)
        os.setsid()
    done.layers["namespaces"] = confined and own_processes
    _drop_capabilities()
    # A user namespace counts its processes from zero; without one, all of the user's count.
    processes = MAXIMUM_PROCESSES + (_tasks_of_this_user() if refusal else 0)
    truncation = _restrict_files([*readable, "/proc" if own_processes else "/proc/self"], done)
    adopt_orphans()
    set_dumpable(False)
    _limit_resources(processes)
    _filter_system_calls(enclosure.server_pid, confined, truncation, done)
    return Confinement(0 if refusal else 2, done.layers, done.refusals, open_doors(done.layers))


def _readable_folders(enclosure: Enclosure) -> list[str]:
    folders = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *filter(os.path.isdir, sys.path)]
    # A virtual environment, which this interpreter leaves aside: those that the code starts read its configuration.
    return [*_READABLE.split(), *folders, str(Path(sys.executable).parent.parent), *enclosure.readable]


def _restrict_files(readable: list[str], done: _Progress) -> bool:
    """Closes what Landlock can; returns whether files are safe from being truncated by their path."""
    try:
        granted = landlock.restrict(readable, [str(Path.cwd())], _DEVICES)
    except OSError as error:
        done.refusals.append(f"Landlock is not available ({error})")
        return False
    layers = {"files": granted.files, "network": granted.network, "signals": granted.signals}
    for name, there in layers.items():
        done.layers[f"landlock_{name}"] = there
    missing = [name for name, there in layers.items() if not there]
    if missing:
        done.refusals.append(
            f"this kernel's Landlock (ABI {landlock.version()}) does not restrict {', '.join(missing)}"
        )
    return granted.truncation


def _filter_system_calls(server: int, confined: bool, truncation: bool, done: _Progress) -> None:
    machine = os.uname().machine
    # Where nothing better keeps signals from the server, its number is refused.
    spared = [] if done.layers["namespaces"] or done.layers["landlock_signals"] else [server]
    program = system_calls.sandbox_program(
        machine, spared=spared, attributes=confined, truncation=confined or truncation
    )
    if not program:
        done.refusals.append(f"there is no filter of system calls for {machine}")
        return
    try:
        system_calls.load(program)
    except OSError as error:
        done.refusals.append(f"system calls cannot be filtered ({error})")
        return
    done.layers["seccomp"] = True


def confine_completion(folder: str) -> None:
    """Confines a completion's process further than the worker that it comes from.

    It writes into its own folder only, and ends, stops and watches no other process, the worker's included. What the
    kernel has not got is left out: the worker has said so.
    """
    with contextlib.suppress(OSError):
        landlock.restrict(["/"], [folder], _DEVICES)
    program = system_calls.completion_program(os.uname().machine)
    if program:
        with contextlib.suppress(OSError):
            system_calls.load(program)


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


def is_crowded(*, own_scratch: bool) -> bool:
    """Whether what a batch left would be in the way of the next: open files, or files in a scratch file system."""
    try:
        lowest = os.dup(0)
        os.close(lowest)
        there = os.statvfs(".")
    except OSError:
        return True
    full = 2 * there.f_bfree < there.f_blocks or 2 * there.f_ffree < there.f_files
    return 2 * lowest > MAXIMUM_OPEN_FILES or (own_scratch and full)


def _become_unprivileged(done: _Progress) -> bool:
    # Root is exempt from RLIMIT_NPROC and could read every file.
    folders = {path: os.open(path, os.O_RDONLY) for path in sys.path if Path(path).is_dir()}
    try:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    except OSError as error:
        done.refusals.append(f"the server runs as root and user {UNPRIVILEGED_ID} is not available ({error.strerror})")
        return False
    # An interpreter below a folder like /root stays importable through the folders opened before.
    for path, descriptor in folders.items():
        if os.access(path, os.R_OK | os.X_OK):
            os.close(descriptor)
        else:
            _replace_path(path, f"/proc/self/fd/{descriptor}")
            os.set_inheritable(descriptor, False)
    return True


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


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends; every change of identity clears it."""
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _become_grandchild(done: _Progress) -> bool:
    """Returns in a new process under a namespace's init; the processes left behind end as it ends.

    The value is whether that process sees its own namespace's processes only.
    """
    init = os.fork()
    if init:
        _drop_capabilities()
        _leave_pipes()
        _exit_like(os.waitpid(init, 0)[1])
    end_with_parent()
    own_processes = True
    try:
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _check("mount", _libc.mount(b"proc", b"/proc", b"proc", flags, None))
    except OSError as error:
        done.refusals.append(f"/proc cannot be mounted anew ({error})")
        own_processes = False
    _drop_capabilities()
    worker = os.fork()
    if worker:
        _leave_pipes()
        while True:
            ended, status = os.wait()
            if ended == worker:
                _exit_like(status)
    end_with_parent()
    return own_processes


def _leave_pipes() -> None:
    # The server sees the end of the worker as the end of its pipes: nobody else may hold them.
    os.closerange(0, 1 << 16)


def _exit_like(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _tasks_of_this_user() -> int:
    """Processes and threads of this user that can be seen: the kernel counts them against the same limit."""
    user, tasks = str(os.getuid()), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (process / "status").read_text(errors="replace").splitlines()
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
