"""Starts the processes of completions, as forks of a process that was started before any sample arrived.

So the process of a completion starts within milliseconds. It contains neither samples, nor their tests, nor the pipes
of the worker.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rft_reward import companions, sandbox
from rft_reward.graders import code_server

PROGRAM, SERVER = "program", "server"
"""Modes of a candidate: it reads standard input and writes standard output, or executes calls to what it defines."""


class Starter:
    """The worker's side of the starter process, which starts one candidate at a time."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = os.fork()
        if not self._process:
            try:
                _serve(other)
            finally:
                os._exit(1)
        other.close()
        companions.companions.add(self._process)
        self._candidate = 0

    def start(self, mode: str, folder: Path, read_end: int, write_end: int, seconds: float) -> None:
        """Start the `candidate.py` of a folder. It reads from one descriptor, and writes to the other."""
        request = json.dumps([mode, str(folder), seconds]).encode()
        with _undisturbed():
            socket.send_fds(self._socket, [request], [read_end, write_end])
            self._candidate = int(self._receive())

    def wait(self, seconds: float) -> int | None:
        """Wait for the end of the candidate. Return its exit status, or None if it is still running after `seconds`."""
        if not select.select([self._socket], [], [], max(seconds, 0.0))[0]:
            return None
        with _undisturbed():
            status = int(self._receive())
            self._candidate = 0
        return status

    def end(self) -> None:
        """Kill the candidate and everything that it started."""
        with _undisturbed():
            if self._candidate:
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        kill(self._candidate, signal.SIGKILL)
                self._receive()
                self._candidate = 0
            companions.end_leftovers()

    def _receive(self) -> bytes:
        message = self._socket.recv(64)
        if not message:
            os._exit(1)  # a worker without its starter process cannot score, so the server must replace it
        return message


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Block the signals that interrupt samples and batches, which must not interrupt an exchange with the starter."""
    signals = {signal.SIGALRM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _serve(requests: socket.socket) -> None:
    """Run the starter process: fork for each request, and send the process id and the exit status."""
    sandbox.end_with_parent()
    for number in (signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    _close_all_but(requests.fileno())
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 65536, 2)
        if not request:
            os._exit(0)
        mode, folder, seconds = json.loads(request)
        candidate = os.fork()
        if not candidate:
            requests.close()
            _become_candidate(mode, folder, seconds, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(candidate).encode())
        requests.send(str(os.waitstatus_to_exitcode(os.waitpid(candidate, 0)[1])).encode())


def _become_candidate(mode: str, folder: str, seconds: float, read_end: int, write_end: int) -> None:
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        program = mode == PROGRAM
        os.dup2(read_end if program else null, 0)
        os.dup2(write_end if program else null, 1)
        os.dup2(null, 2)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        whole = int(seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
        os.environ["HOME"] = os.environ["TMPDIR"] = folder
        sandbox.confine_completion(folder)
        source = Path("candidate.py").read_text(encoding="utf-8")
        builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
        module = types.ModuleType("__main__" if program else "candidate")
        module.__file__ = "candidate.py"
        sys.modules[module.__name__] = module
        sys.argv = ["candidate.py"]
        run: Callable[[], Any] = lambda: exec(compile(source, "candidate.py", "exec"), module.__dict__)  # noqa: E731
        if program:
            run()
            for thread in threading.enumerate():
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join()
        else:
            code_server.serve(run, module, os.fdopen(read_end, "rb"), os.fdopen(write_end, "wb"))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status & 0xFF)


def _close_all_but(kept: int) -> None:
    # The library of the interpreter may be reachable only through descriptors (`sandbox.enter`).
    keep = {kept} | {int(path.rsplit("/", 1)[1]) for path in sys.path if path.startswith("/proc/self/fd/")}
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    start = 3
    for descriptor in sorted(keep):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, 1 << 16)
