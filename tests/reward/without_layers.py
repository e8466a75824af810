"""Runs a command where the kernel grants no layer of the sandbox: neither namespaces, Landlock, filters nor secrecy.

For the test that the attacks are real: what the layers stop must succeed without them.
"""

import ctypes
import errno
import os
import sys
from pathlib import Path

from rft_reward import system_calls

CREATE_RULESET = 444
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
LOAD, EQUAL, GIVE = 0x20, 0x15, 0x06
ALLOW, GIVE_ERROR = 0x7FFF0000, 0x00050000


def refusing_program():
    prctl = system_calls.numbers(os.uname().machine)["prctl"]
    return [
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 1, CREATE_RULESET),
        (GIVE, 0, 0, GIVE_ERROR | errno.ENOSYS),
        (EQUAL, 0, 5, prctl),
        (LOAD, 0, 0, 16),
        (EQUAL, 0, 1, PR_SET_SECCOMP),
        (GIVE, 0, 0, GIVE_ERROR | errno.EINVAL),
        (EQUAL, 0, 1, PR_SET_DUMPABLE),
        (GIVE, 0, 0, GIVE_ERROR),  # as if it had succeeded
        (GIVE, 0, 0, ALLOW),
    ]


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    system_calls.load(refusing_program())
    without_namespaces = str(Path(__file__).with_name("without_namespaces.py"))
    os.execv(sys.executable, [sys.executable, without_namespaces, *sys.argv[1:]])
