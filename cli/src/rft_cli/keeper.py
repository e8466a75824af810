"""Runs one program in a process group of its own and ends the group with its parent, however the parent ends.

Started as a script with a pipe for standard input. SIGTERM is passed on to the program; when the pipe closes, because
the parent closed it or died, even of SIGKILL, the whole group is killed. The kernel kills the program should the keeper
itself be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Runs the command; returns its exit code, 128 + N when signal N ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Blocked until there is somebody to pass it on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    program = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_prepare_program,
    )
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def end_with_parent() -> None:
        # Not sys.stdin: a blocked read of it would hold the interpreter's shutdown.
        while os.read(0, 1):
            pass
        _kill_group(program.pid)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = program.wait()
    _kill_group(program.pid)  # what the program left behind
    return code if code >= 0 else 128 - code


def _prepare_program() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The program would inherit the mask and the ignored SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
