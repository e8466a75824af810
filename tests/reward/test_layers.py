"""The sandbox's layers: which calls the filter refuses, which rights Landlock handles, and what is in reach without."""

import errno
import json
import os
import subprocess
import sys

import pytest

from rft_reward import landlock, sandbox, system_calls

CALL_ALL = """
import ctypes, json, os, sys
from rft_reward import system_calls
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
machine = os.uname().machine
names = json.loads(sys.argv[1])
numbers = system_calls.numbers(machine)
system_calls.load(system_calls.sandbox_program(machine))
errors = {}
for name in names:
    if name in numbers:
        ctypes.set_errno(0)
        result = libc.syscall(numbers[name], *[ctypes.c_long(-1)] * 6)
        errors[name] = ctypes.get_errno() if result < 0 else 0
print(json.dumps(errors))
"""
REFUSED = [*system_calls.OTHER_PROCESSES, *system_calls.KERNEL, *system_calls.OUTLIVING, *system_calls.ATTRIBUTES,
           *system_calls.RULES]  # fmt: skip


def test_every_call_of_the_lists_is_refused():
    # Arguments that no call accepts: without the filter each fails with another error, or not at all.
    command = [sys.executable, "-c", CALL_ALL, json.dumps([*system_calls.NETWORK, *REFUSED, "truncate"])]
    errors = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert {errors.pop(name) for name in system_calls.NETWORK} == {errno.EACCES}
    assert set(errors.values()) == {errno.EPERM}
    assert len(errors) > 60


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_tables_know_the_calls(machine):
    known = system_calls.numbers(machine)
    assert len(set(known.values())) == len(known)
    # arm64 never had the calls that others replaced, nor those of the x86's hardware.
    absent = {
        "iopl",
        "ioperm",
        "modify_ldt",
        "inotify_init",
        "chmod",
        "chown",
        "lchown",
        "utime",
        "utimes",
        "futimesat",
    }
    assert {*system_calls.NETWORK, *REFUSED} - set(known) == (absent if machine == "aarch64" else set())
    program = system_calls.sandbox_program(machine, spared=[7])
    assert len(program) < 4096  # BPF_MAXINSNS
    assert program[-1] == (0x06, 0, 0, 0x7FFF0000)


def test_a_machine_without_a_table_has_no_filter():
    assert system_calls.sandbox_program("riscv64") == system_calls.completion_program("riscv64") == []


@pytest.mark.parametrize(
    ("abi", "rights"), [(1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (7, 0xFFFF)]
)
def test_landlock_handles_what_its_abi_knows(abi, rights):
    assert landlock.handled_files(abi) == rights


@pytest.mark.parametrize(
    ("missing", "doors"),
    [
        ([], []),
        (["namespaces"], []),
        (["landlock_files", "landlock_network", "landlock_signals"], []),
        (["landlock_network"], []),
        (["namespaces", "landlock_signals"], ["end other workers"]),
        (["namespaces", "landlock_files", "landlock_signals"], ["token's file", "end other workers"]),
        (["seccomp"], ["not filtered"]),
        (["unprivileged"], ["as root"]),
    ],
)
def test_what_is_in_reach_without_layers(missing, doors):
    said = sandbox.open_doors({layer: layer not in missing for layer in sandbox.LAYERS})
    assert len(said) == len(doors)
    assert all(part in text for part, text in zip(doors, said, strict=True))


SPARED = """
import ctypes, errno, fcntl, os, signal, socket, struct, sys
from rft_reward import system_calls
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
server = int(sys.argv[1])
system_calls.load(system_calls.sandbox_program(os.uname().machine, spared=[server]))
for target in (server, -server, -1):
    try:
        os.kill(target, 0)
    except PermissionError:
        continue
    sys.exit(f"{target} was reached")
libc = ctypes.CDLL(None, use_errno=True)
tgkill = system_calls.numbers(os.uname().machine)["tgkill"]
if libc.syscall(tgkill, server, server, 0) == 0 or ctypes.get_errno() != errno.EPERM:
    sys.exit("its first thread was reached")
if libc.syscall(tgkill, os.getpid(), os.getpid(), 0):
    sys.exit("threads cannot signal each other")
one, _ = socket.socketpair()
for request in (0x8901, 0x8902):  # FIOSETOWN, SIOCSPGRP
    try:
        fcntl.ioctl(one, request, struct.pack("i", server))
    except PermissionError:
        continue
    sys.exit(f"the server was made the owner of a socket by {request:#x}")
child = os.fork()
if not child:
    signal.pause()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_the_filter_keeps_signals_from_the_server_where_nothing_else_does():
    subprocess.run([sys.executable, "-c", SPARED, str(os.getpid())], check=True)


def test_processes_that_cannot_be_seen_count_as_the_kernel_counts_them():
    """In a pod, those of other pods are not in /proc. A limit that leaves them out may not allow a single process."""
    user, unseen = 61234, 70
    script = f"import os\nfrom rft_reward import sandbox\nos.setresuid({user}, {user}, {user})\n"
    script += "print(len([name for name in os.listdir('/proc') if name.isdigit()]), sandbox._tasks_of_this_user())"
    others = [subprocess.Popen(["sleep", "infinity"], user=user) for _ in range(unseen)]
    try:
        command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
        seen, counted = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert seen < unseen
    assert counted == unseen + 1
