"""Filters of system calls (seccomp): the calls that are refused to reward code, and to completions.

The filters list the refused calls. Container engines already have a list of allowed calls, and another one here would
break libraries that a reward may use. The programs are written by hand, from small blocks, because the maintained
bindings need the system library libseccomp, which not every base image has. The facts are from seccomp(2), and the
numbers from the tables of libseccomp (seccomp_syscall_resolve_name_arch).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]
"""An instruction (struct sock_filter): code, jump if true, jump if false, and constant."""

_NUMBERS = {
    "x86_64": """
        socket 41 connect 42 bind 49 listen 50 accept 43 accept4 288 socketpair 53 sendto 44 setsockopt 54
        io_uring_setup 425 io_uring_enter 426 io_uring_register 427
        ptrace 101 process_vm_readv 310 process_vm_writev 311 process_madvise 440 process_mrelease 448 pidfd_getfd 438
        kcmp 312 move_pages 279 migrate_pages 256 perf_event_open 298 bpf 321 userfaultfd 323
        kill 62 tkill 200 tgkill 234 rt_sigqueueinfo 129 rt_tgsigqueueinfo 297 pidfd_send_signal 424 prlimit64 302
        setpriority 141 ioprio_set 251 sched_setaffinity 203 sched_setscheduler 144 sched_setparam 142 sched_setattr 314
        unshare 272 setns 308 clone 56 clone3 435 mount 165 umount2 166 pivot_root 155 chroot 161 mount_setattr 442
        open_tree 428 move_mount 429 fsopen 430 fsconfig 431 fsmount 432 fspick 433 open_by_handle_at 304
        name_to_handle_at 303 swapon 167 swapoff 168 quotactl 179 quotactl_fd 443 acct 163
        statmount 457 listmount 458 lsm_set_self_attr 460
        add_key 248 request_key 249 keyctl 250 init_module 175 finit_module 313 delete_module 176 kexec_load 246
        kexec_file_load 320 reboot 169 syslog 103 settimeofday 164 clock_settime 227 clock_adjtime 305 adjtimex 159
        sync 162 syncfs 306 sethostname 170 setdomainname 171 vhangup 153 iopl 172 ioperm 173 modify_ldt 154
        shmget 29 semget 64 msgget 68 mq_open 240 memfd_create 319 memfd_secret 447 vmsplice 278 io_setup 206
        landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446
        inotify_init 253 inotify_init1 294 fanotify_init 300
        chmod 90 fchmod 91 fchmodat 268 fchmodat2 452 chown 92 fchown 93 lchown 94 fchownat 260 utime 132 utimes 235
        futimesat 261 utimensat 280 setxattr 188 lsetxattr 189 fsetxattr 190 removexattr 197 lremovexattr 198
        fremovexattr 199 truncate 76 prctl 157 fcntl 72 ioctl 16
    """,
    "aarch64": """
        socket 198 connect 203 bind 200 listen 201 accept 202 accept4 242 socketpair 199 sendto 206 setsockopt 208
        io_uring_setup 425 io_uring_enter 426 io_uring_register 427
        ptrace 117 process_vm_readv 270 process_vm_writev 271 process_madvise 440 process_mrelease 448 pidfd_getfd 438
        kcmp 272 move_pages 239 migrate_pages 238 perf_event_open 241 bpf 280 userfaultfd 282
        kill 129 tkill 130 tgkill 131 rt_sigqueueinfo 138 rt_tgsigqueueinfo 240 pidfd_send_signal 424 prlimit64 261
        setpriority 140 ioprio_set 30 sched_setaffinity 122 sched_setscheduler 119 sched_setparam 118 sched_setattr 274
        unshare 97 setns 268 clone 220 clone3 435 mount 40 umount2 39 pivot_root 41 chroot 51 mount_setattr 442
        open_tree 428 move_mount 429 fsopen 430 fsconfig 431 fsmount 432 fspick 433 open_by_handle_at 265
        name_to_handle_at 264 swapon 224 swapoff 225 quotactl 60 quotactl_fd 443 acct 89
        statmount 457 listmount 458 lsm_set_self_attr 460
        add_key 217 request_key 218 keyctl 219 init_module 105 finit_module 273 delete_module 106 kexec_load 104
        kexec_file_load 294 reboot 142 syslog 116 settimeofday 170 clock_settime 112 clock_adjtime 266 adjtimex 171
        sync 81 syncfs 267 sethostname 161 setdomainname 162 vhangup 58
        shmget 194 semget 190 msgget 186 mq_open 180 memfd_create 279 memfd_secret 447 vmsplice 75 io_setup 0
        landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446
        inotify_init1 26 fanotify_init 262
        fchmod 52 fchmodat 53 fchmodat2 452 fchown 55 fchownat 54 utimensat 88 setxattr 5 lsetxattr 6 fsetxattr 7
        removexattr 14 lremovexattr 15 fremovexattr 16 truncate 45 prctl 167 fcntl 25 ioctl 29
    """,
}
_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FIRST_UNUSED = {"x86_64": 335, "aarch64": 295}
"""The first number that a machine had not used when all machines went on together with 424. (335 and 336 pass every
filter: they are the returns from probes, which fail elsewhere.)"""
_COMMON = 424
_FIRST_UNKNOWN = 463
"""The first number that this module does not know, on all machines. The calls before it are those of Linux 6.12. Those
after it are setxattrat 463, getxattrat 464, listxattrat 465, removexattrat 466, open_tree_attr 467, file_getattr 468,
file_setattr 469, and what is yet to come: a program sees an older kernel, as it has to expect."""


def _words(text: str) -> list[str]:
    return text.split()


NETWORK = _words("socket connect bind listen accept accept4 io_uring_setup io_uring_enter io_uring_register")
"""Sockets, and io_uring, which opens sockets and files without a system call for each of them."""
OTHER_PROCESSES = _words("""
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd pidfd_send_signal kcmp
    move_pages migrate_pages perf_event_open tkill rt_sigqueueinfo rt_tgsigqueueinfo
""")
KERNEL = _words("""
    bpf userfaultfd add_key request_key keyctl init_module finit_module delete_module kexec_load kexec_file_load reboot
    syslog settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname vhangup iopl ioperm modify_ldt
    unshare setns mount umount2 pivot_root chroot mount_setattr open_tree move_mount fsopen fsconfig fsmount fspick
    open_by_handle_at name_to_handle_at swapon swapoff quotactl quotactl_fd acct statmount listmount lsm_set_self_attr
    sync syncfs
""")
"""Parts of the kernel that no reward needs, and that many exploits use. sync and syncfs make everybody's files wait for
the disk."""
OUTLIVING = _words("""
    shmget semget msgget mq_open memfd_create memfd_secret inotify_init inotify_init1 fanotify_init setsockopt
    vmsplice io_setup
""")
"""Objects that remain when a worker ends, count against the user on the whole machine, or are unlimited memory.

The options of a socket are among them, because they are the sizes of its buffers in the kernel; pairs need none. A page
that vmsplice puts into a pipe is held with all others of its huge page, though the process no longer has it."""
RULES = _words("landlock_create_ruleset landlock_add_rule landlock_restrict_self")
"""Landlock, whose rules are memory of the kernel, and without a limit."""
ATTRIBUTES = _words("""
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
""")
"""Changes of files that Landlock does not control."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW = (_GIVE, 0, 0, 0x7FFF0000)
_X32 = 0x40000000
_NAMESPACES_AND_PARENT = 0x00020000 | 0x7E000000 | 0x8000
"""Flags of clone(2): CLONE_NEWNS, the other CLONE_NEW* and CLONE_PARENT."""
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x10000
_UNIX, _STREAM, _SEQPACKET = 1, 1, 5
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_PTRACER = 4, 36, 0x59616D61
_F_SETOWN, _F_SETOWN_EX, _F_SETPIPE_SZ = 8, 15, 1031
_F_OFD_SETLK, _F_OFD_SETLKW, _F_SETLEASE, _F_NOTIFY = 37, 38, 1024, 1026
_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

_libc = ctypes.CDLL(None, use_errno=True)


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers of the system calls of this module, by name. It is empty for an unknown machine."""
    words = _NUMBERS.get(machine, "").split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def sandbox_program(
    machine: str,
    *,
    spared: Sequence[int] = (),
    attributes: bool = False,
    truncation: bool = False,
    rules: bool = False,
) -> list[Instruction]:
    """Return the filter of a worker. It is empty for an unknown machine.

    Args:
        machine: hardware name of the kernel, such as x86_64.
        spared: processes and groups that signals must not reach, for kernels without a better protection.
        attributes: whether mode, owner, times and extended attributes of files may be changed.
        truncation: whether files may be truncated by their path.
        rules: whether Landlock's rules may be made, for processes that confine completions.
    """
    call_numbers = numbers(machine)
    if not call_numbers:
        return []
    refused = [*OTHER_PROCESSES, *KERNEL, *OUTLIVING, *([] if attributes else ATTRIBUTES), *([] if rules else RULES)]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURES[machine]),
        _refuse(errno.EACCES),  # system calls of other architectures have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        _refuse(errno.EACCES),
        (_AT_LEAST, 0, 1, _FIRST_UNKNOWN),
        _refuse(errno.ENOSYS),
        (_AT_LEAST, 2, 0, _COMMON),
        (_AT_LEAST, 0, 1, _FIRST_UNUSED[machine]),
        _refuse(errno.ENOSYS),
    ]
    for names, error in ((NETWORK, errno.EACCES), (refused, errno.EPERM), (["clone3"], errno.ENOSYS)):
        # A filter cannot read the flags of clone3. Without it, the C library uses clone.
        program += _refusals([call_numbers[name] for name in names if name in call_numbers], error)
    if not truncation:
        program += _refusals([call_numbers["truncate"]], errno.EPERM)
    for name, block in _argument_checks(spared).items():
        program += [(_EQUAL, 0, len(block), call_numbers[name]), *block]
    return [*program, _ALLOW]


def _argument_checks(spared: Sequence[int]) -> dict[str, list[Instruction]]:
    """Return the blocks that decide by the arguments of a call, by the name of the call. Each block ends with a
    decision."""
    refuse = _refuse(errno.EPERM)
    # The first argument is a process: only the caller itself, which is 0, is allowed.
    oneself = [_argument(0), (_EQUAL, 1, 0, 0), refuse, _ALLOW]
    kill, tgkill = [_argument(0)], [_argument(0)]
    for process in spared:
        tgkill += [(_EQUAL, 0, 1, process), refuse]
        for number in (process, -process):
            kill += [(_EQUAL, 0, 1, number & 0xFFFFFFFF), refuse]
    return {
        # Only pairs that are connected from the start, because datagram sockets can send to other addresses.
        "socketpair": [
            _argument(0),
            (_EQUAL, 1, 0, _UNIX),
            _refuse(errno.EACCES),
            _argument(1),
            (_AND, 0, 0, 0xF),
            (_EQUAL, 2, 0, _STREAM),
            (_EQUAL, 1, 0, _SEQPACKET),
            _refuse(errno.EACCES),
            _ALLOW,
        ],
        "sendto": [
            _argument(4),  # the address
            (_EQUAL, 1, 0, 0),
            _refuse(errno.EACCES),
            _argument(4, high=True),
            (_EQUAL, 1, 0, 0),
            _refuse(errno.EACCES),
            _ALLOW,
        ],
        # Only threads share descriptors: the locks of a process that has ended would stay, as those of nobody.
        "clone": [
            _argument(0),
            (_ANY_BIT, 0, 1, _NAMESPACES_AND_PARENT),
            refuse,
            (_ANY_BIT, 0, 2, _CLONE_FILES),
            (_ANY_BIT, 1, 0, _CLONE_THREAD),
            refuse,
            _ALLOW,
        ],
        "kill": [*kill, (_EQUAL, 0, 1, 0xFFFFFFFF), refuse, _ALLOW],  # -1 stands for all processes
        "tgkill": [*tgkill, _ALLOW],
        **dict.fromkeys(
            ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"), oneself
        ),
        "setpriority": _of_caller(0),
        "ioprio_set": _of_caller(1),
        "prctl": _argument_not_in(0, (_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_PTRACER)),
        # The first two let the kernel signal another process, the third takes memory of the kernel. So do locks, which
        # the server counts if they belong to a process; those of a descriptor name none. The last two watch others.
        "fcntl": _argument_not_in(
            1,
            (_F_SETOWN, _F_SETOWN_EX, _F_SETPIPE_SZ, _F_OFD_SETLK, _F_OFD_SETLKW, _F_SETLEASE, _F_NOTIFY),
        ),
        # The first two insert input into a terminal, the others let the kernel signal another process.
        "ioctl": _argument_not_in(1, (_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP)),
    }


def _of_caller(process: int) -> list[Instruction]:
    """Return the block of a call whose arguments are a kind and an id: only the process of the caller is allowed."""
    refuse = _refuse(errno.EPERM)
    return [_argument(0), (_EQUAL, 1, 0, process), refuse, _argument(1), (_EQUAL, 1, 0, 0), refuse, _ALLOW]


def _argument_not_in(index: int, refused: Sequence[int]) -> list[Instruction]:
    return [_argument(index), *_refusals(refused, errno.EPERM), _ALLOW]


def completion_program(machine: str) -> list[Instruction]:
    """Return the additional filter of a completion's process, which cannot signal any process, nor make Landlock's
    rules."""
    call_numbers = numbers(machine)
    if not call_numbers:
        return []
    return [
        (_LOAD, 0, 0, _NUMBER_AT),  # the filter of the worker refuses other architectures and x32
        *_refusals([call_numbers[name] for name in ("kill", "tgkill", *RULES)], errno.EPERM),
        _ALLOW,
    ]


def load(program: list[Instruction]) -> None:
    """Apply a filter to this thread and everything that it starts.

    Raises:
        OSError: the kernel refuses the filter.
    """
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))  # struct sock_fprog
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")


def _refusals(values: Sequence[int], error: int) -> list[Instruction]:
    """Return the error if the loaded value is one of these. Otherwise the program continues."""
    return [instruction for value in values for instruction in ((_EQUAL, 0, 1, value), _refuse(error))]


def _refuse(error: int) -> Instruction:
    return (_GIVE, 0, 0, 0x00050000 | error)  # SECCOMP_RET_ERRNO


def _argument(index: int, *, high: bool = False) -> Instruction:
    """Load one half of an argument. On both machines, the low half comes first."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)
