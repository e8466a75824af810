"""Run one program in a process group of its own, and kill the group when the parent ends, for whatever reason.

The keeper is started as a script with a pipe as its standard input. It passes SIGTERM on to the program. When the pipe
closes, because the parent closed it or ended, even by SIGKILL, the keeper kills the whole group. When the keeper itself
is killed, the kernel kills the program.
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
    """Run the command, and return its exit code, or 128 + N when signal N ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM is blocked until the program runs, to which it is passed on.
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
        # os.read instead of sys.stdin, because a read of sys.stdin that blocks would delay the end of the interpreter.
        while os.read(0, 1):
            pass
        _kill_group(program.pid)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = program.wait()
    _kill_group(program.pid)  # Kill the processes that the program started and left running.
    return code if code >= 0 else 128 - code


def _prepare_program() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Otherwise the program would inherit the blocked SIGTERM and the ignored SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
