"""Confines a worker, from inside its process: user, namespaces, mounts, Landlock, system calls, and limits.

It uses only the standard library, and ctypes for system calls that Python 3.11 does not wrap. The facts about the
system calls are from their manual pages: user_namespaces(7), pid_namespaces(7), capset(2), prctl(2), and
getrlimit(2).
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

from rft_reward import landlock, mounts, system_calls

UNPRIVILEGED_ID = 65534
MAXIMUM_PROCESSES = 64
_MOST_TASKS = 1 << 22
"""Largest number of processes and threads that Linux has on a machine (PID_MAX_LIMIT)."""
MAXIMUM_OPEN_FILES = 128
MAXIMUM_FILE_BYTES = 16 * 1024 * 1024
SCRATCH_BYTES = 64 * 1024 * 1024
SCRATCH_FILES = 4096
MAXIMUM_LOCKS = 4096
"""Largest number of locks of parts of files that the processes of a worker hold. Each takes memory of the kernel, which
most kernels count for nobody, so that neither the worker's limit nor the pod's would end it. SQLite holds three."""
MAXIMUM_SIGNALS = 256
"""Largest number of signals that are queued, and of timers: these, too, are memory of the kernel."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_READABLE = """
    /usr /bin /sbin /lib /lib64 /sys/devices/system /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg /proc/sys
    /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/alternatives /etc/localtime /etc/timezone /etc/passwd
    /etc/group /etc/nsswitch.conf /etc/mime.types /etc/ssl/openssl.cnf /etc/pki/tls/openssl.cnf /etc/crypto-policies
"""
"""What programs and libraries read, beside Python's own folders. Nothing in there is secret."""
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Enclosure:
    """The bounds of a worker."""

    server_pid: int
    """Process id of the server. The worker ends when the server ends."""
    scratch: str
    """The only folder that the worker can write to, if it has no namespace, in which it gets a /tmp of its own."""
    hidden_file: str | None
    """File of the server that the worker must not read."""
    readable: list[str]
    """Files and folders that the code may read beside those of Python and the system."""
    confines: bool
    """Whether the worker confines processes that it starts further than itself."""


@dataclass(frozen=True)
class Confinement:
    """The part of the sandbox that the kernel and the user allow."""

    generations: int
    """Number of generations between the process that called `enter` and the process that runs the code."""
    layers: dict[str, bool]
    """Every layer, by name, and whether it is in force."""
    refusals: list[str]
    """Reasons why layers are missing."""
    warnings: list[str]
    """What reward code can do although it should not."""


LAYERS = ("namespaces", "landlock_files", "landlock_network", "landlock_signals", "seccomp", "unprivileged")
"""Names of the layers that depend on the kernel and the user. Limits and an empty environment are always in force."""


def open_doors(layers: dict[str, bool]) -> list[str]:
    """Return what reward code can do because layers are missing. It is empty if the other layers prevent everything."""
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
    """Set whether processes of the same user may read the memory, environment and open files of this process."""
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0))


def adopt_orphans() -> None:
    """Make this process the parent of orphaned descendants, so that none of them escapes by forking twice."""
    _check("prctl", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


@dataclass
class _Progress:
    layers: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(LAYERS, False))
    refusals: list[str] = field(default_factory=list)


def enter(enclosure: Enclosure) -> Confinement:
    """Confine this process. The function returns in the process that runs the code, with the layers that are in force.

    With namespaces, the code runs in a grandchild. This process remains as its supervisor, and a child of it is the
    init process of the namespace, so that killing either of them ends everything inside. Without namespaces, the code
    runs in this process.

    Raises:
        OSError: a limit that every kernel supports cannot be set.
    """
    progress = _Progress()
    with contextlib.suppress(OSError):  # if memory runs out, the kernel must kill this process and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    readable = _readable_folders(enclosure)
    progress.layers["unprivileged"] = os.geteuid() != 0 or _become_unprivileged(progress)
    refusal = _enter_namespaces()
    # By now, the folders of the interpreter may be reachable only through descriptors.
    readable += [path for path in sys.path if path.startswith("/proc/self/fd/")]
    confined, folder = False, enclosure.scratch
    if refusal:
        progress.refusals.append(f"namespaces are not available ({refusal})")
    else:
        try:
            folder = mounts.confine_file_system(
                enclosure.scratch, enclosure.hidden_file, readable, SCRATCH_BYTES, SCRATCH_FILES
            )
            confined = True
        except OSError as error:
            progress.refusals.append(f"the file system cannot be made read-only ({error})")
    os.chdir(folder)
    end_with_parent()
    if os.getppid() != enclosure.server_pid:  # the server had ended before the kernel was told to watch it
        os._exit(1)
    own_processes = False
    if not refusal:
        own_processes = _become_grandchild(progress)
        os.setsid()
    progress.layers["namespaces"] = confined and own_processes
    _drop_capabilities()
    # A user namespace counts its own processes. Without one, all processes of the user on the machine count.
    processes = MAXIMUM_PROCESSES + (_tasks_of_this_user() if refusal else 0)
    truncation = _restrict_files([*readable, "/proc" if own_processes else "/proc/self"], progress)
    adopt_orphans()
    set_dumpable(False)
    _limit_resources(processes)
    _filter_system_calls(enclosure, confined, truncation, progress)
    return Confinement(0 if refusal else 2, progress.layers, progress.refusals, open_doors(progress.layers))


def _readable_folders(enclosure: Enclosure) -> list[str]:
    folders = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *filter(os.path.isdir, sys.path)]
    # Interpreters that the code starts read the configuration of the virtual environment; this one does not.
    return [*_READABLE.split(), *folders, str(Path(sys.executable).parent.parent), *enclosure.readable]


def _restrict_files(readable: list[str], progress: _Progress) -> bool:
    """Apply Landlock. Return whether it prevents files from being truncated by their path."""
    try:
        granted = landlock.restrict(readable, [str(Path.cwd())], _DEVICES)
    except OSError as error:
        progress.refusals.append(f"Landlock is not available ({error})")
        return False
    layers = {"files": granted.files, "network": granted.network, "signals": granted.signals}
    for name, in_force in layers.items():
        progress.layers[f"landlock_{name}"] = in_force
    missing = [name for name, in_force in layers.items() if not in_force]
    if missing:
        progress.refusals.append(
            f"this kernel's Landlock (ABI {landlock.version()}) does not restrict {', '.join(missing)}"
        )
    return granted.truncation


def _filter_system_calls(enclosure: Enclosure, confined: bool, truncation: bool, progress: _Progress) -> None:
    machine = os.uname().machine
    # Without a better protection of the server against signals, the filter refuses its process id.
    is_spared = not (progress.layers["namespaces"] or progress.layers["landlock_signals"])
    program = system_calls.sandbox_program(
        machine,
        spared=sorted({enclosure.server_pid, os.getpgid(enclosure.server_pid)}) if is_spared else [],
        attributes=confined,
        truncation=confined or truncation,
        rules=enclosure.confines,
    )
    if not program:
        progress.refusals.append(f"there is no filter of system calls for {machine}")
        return
    try:
        system_calls.load(program)
    except OSError as error:
        progress.refusals.append(f"system calls cannot be filtered ({error})")
        return
    progress.layers["seccomp"] = True


def confine_completion(folder: str) -> None:
    """Confine the process of a completion further than the worker that starts it.

    The process can write only to its own folder, and cannot signal or trace any other process, not even the worker.
    What the kernel does not support is left out, and the worker has reported it.
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
        (resource.RLIMIT_SIGPENDING, MAXIMUM_SIGNALS),
    ):
        hard = resource.getrlimit(kind)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))


def limit_memory(extra_bytes: int) -> None:
    """Limit the growth of this process's address space to `extra_bytes` from now on."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra_bytes, used + extra_bytes))


def limit_processor_time(seconds: float) -> None:
    """Limit the processor time of this process, and of each child, to about so many seconds from now (SIGXCPU).

    It is a soft limit that is set for each batch, because a hard limit cannot be raised without CAP_SYS_RESOURCE. The
    server limits the wall-clock time of a batch.
    """
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(time.process_time() + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def is_crowded(*, own_scratch: bool) -> bool:
    """Return whether a batch left too many open files, or too many files in a scratch file system, for the next
    batch."""
    try:
        lowest = os.dup(0)
        os.close(lowest)
        file_system = os.statvfs(".")
    except OSError:
        return True
    full = 2 * file_system.f_bfree < file_system.f_blocks or 2 * file_system.f_ffree < file_system.f_files
    return 2 * lowest > MAXIMUM_OPEN_FILES or (own_scratch and full)


def _become_unprivileged(progress: _Progress) -> bool:
    # RLIMIT_NPROC does not apply to root, and root could read every file.
    folders = {path: os.open(path, os.O_RDONLY) for path in sys.path if Path(path).is_dir()}
    try:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    except OSError as error:
        refusal = f"the server runs as root and user {UNPRIVILEGED_ID} is not available ({error.strerror})"
        progress.refusals.append(refusal)
        return False
    # The folders that were opened before keep an interpreter importable that is below a folder such as /root.
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
    """Move this process to its own namespaces, and its children to a new PID namespace. Return why that was refused."""
    user, group = os.geteuid(), os.getegid()
    set_dumpable(True)  # otherwise root owns /proc/self, and the maps below cannot be written
    flags = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
    if _libc.unshare(flags) != 0:
        return os.strerror(ctypes.get_errno())
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    return None


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    _check("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))


def end_with_parent() -> None:
    """Tell the kernel to kill this process when its parent ends. A later change of the user would revoke that."""
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _become_grandchild(progress: _Progress) -> bool:
    """Return in a new process below the init process of the namespace. The processes above it end when it ends.

    The return value is whether the new process sees only the processes of its own namespace.
    """
    init = os.fork()
    if init:
        _drop_capabilities()
        _leave_pipes()
        _exit_like(os.waitpid(init, 0)[1])
    end_with_parent()
    own_processes = True
    try:
        mounts.mount_own_processes()
    except OSError as error:
        progress.refusals.append(f"/proc cannot be mounted anew ({error})")
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
    # The server detects the end of the worker by the end of its pipes, so no other process may have them open.
    os.closerange(0, 1 << 16)


def _exit_like(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _tasks_of_this_user() -> int:
    """Return the number of processes and threads of this user, which the kernel counts against the same limit.

    Those of other pods are among them, but cannot be seen in /proc. So this looks for the smallest limit with which
    this process can still start another one.
    """
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    low, high = 0, _MOST_TASKS if hard == resource.RLIM_INFINITY else min(_MOST_TASKS, hard)
    while low < high:
        limit = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
        if _can_fork():
            high = limit
        else:
            low = limit + 1
    return max(low - 1, 0)


def _can_fork() -> bool:
    try:
        child = os.fork()
    except BlockingIOError:
        return False
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return True


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
