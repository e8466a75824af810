"""One rollout server: starts it, waits until it answers, supervises it, and starts it again when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from rft_api import keeper
from rft_api.files import atomic_write
from rft_api.foreign.files import open_file
from rft_api.foreign.http import Answer, ForeignAnswerError, ask
from rft_api.foreign.text import printable
from rft_trainer.rollout_servers.command import ServerSettings, server_command, server_environment

STARTS = 3
"""A server that has ended so many times in a row before it was ready is not started again."""
START_SECONDS = 1800.0
"""Seconds in which a started server has to answer. On two busy processor cores, a vLLM has taken up to five minutes; a
GPU adds the time to read the weights and to compile. What takes longer waits for something that does not come, such as
another process of a collective operation, so it is not started again: the attempt ends, and the next one may be luckier
on another machine."""
POLL_SECONDS = 0.25
HEALTH_SECONDS = 30.0
"""Seconds between two questions to a ready server whether it is healthy, and for the answer."""
SILENT_SECONDS = 300.0
"""A ready server that has not answered for so long is killed, and started again."""
_LOG_BYTES = 8192
"""Bytes at the end of a server's log that are shown when it cannot be started."""
_ANSWER_BYTES = 1 << 20

log = logging.getLogger(__name__)


class NotLoaded(Exception):
    """A server has not loaded a version; the text says why, as the end of a sentence about the server."""


class Rejected(NotLoaded):
    """A server has read a version and says that it is wrong: it would say so after every start."""


class _Ended(Exception):
    """The server has ended, or has to be started again; the text says why."""


class _Stuck(Exception):
    """The server neither answers nor ends, and another start would do the same; the text says for how long."""


def unix_client(socket: Path, connections: int | None = None) -> httpx.AsyncClient:
    """Return a client for the server behind a Unix socket, whose URLs begin with http://vllm."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    # Certificates, which would take a while to load, are for https.
    transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits, verify=False)
    return httpx.AsyncClient(transport=transport, base_url="http://vllm", trust_env=False)


def call(socket: Path, method: str, path: str, seconds: float, content: Mapping[str, Any] | None = None) -> Answer:
    """Send a request to a server, in a thread without an event loop; return its answer.

    Raises:
        ForeignAnswerError: when there is no answer.
    """

    async def request() -> Answer:
        async with unix_client(socket) as client:
            body = None if content is None else json.dumps(content).encode()
            headers = None if content is None else {"content-type": "application/json"}
            return await ask(client, method, path, seconds, _ANSWER_BYTES, content=body, headers=headers)

    return asyncio.run(request())


def failure_file(socket: Path) -> Path:
    """Return the file that says why the server behind a socket is not started again."""
    return socket.with_suffix(".failed")


def kill_processes_in(folder: Path) -> None:
    """Kill the processes of this user whose working folder is this one, or one inside of it.

    The working folder is what the processes of a server have in common: vLLM renames them, and when the first one is
    killed, the others live on.
    """
    resolved = folder.resolve()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The descriptor makes sure that the process that is killed is the one that was looked at.
            descriptor = os.pidfd_open(int(entry.name))
            try:
                if (entry / "cwd").readlink().is_relative_to(resolved):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


class RolloutServer:
    """A vLLM server, in a process group of its own, which ends with this process, however that ends.

    A start listens on a socket of its own. The address `socket` leads there only when the server is prepared, that is,
    when it has loaded what others are to be answered from. So nobody reaches a server that was started again and does
    not hold the current version.

    Args:
        socket: where others reach it.
        settings: what it is started with.
        prepare: loads the current version into the server behind a socket, and then calls its second argument, which
            makes it reachable. Called at every start, in another thread. Raises NotLoaded.
    """

    def __init__(
        self,
        socket: Path,
        settings: ServerSettings,
        prepare: Callable[[Path, Callable[[], None]], None],
    ):
        self.socket = socket
        self._settings = settings
        self._prepare = prepare
        self._starts = 0
        self._keeper: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._name = f"rollout server {socket.stem}"
        self._thread = threading.Thread(target=self._supervise, name=self._name, daemon=True)
        self._thread.start()

    @property
    def is_reachable(self) -> bool:
        """Whether it is prepared, as far as is known."""
        return self.socket.is_symlink()

    def kill(self) -> None:
        """Kill it, with all of its processes; it is started again. When this method returns, nobody can reach it."""
        self._withdraw()
        process = self._keeper
        if process is not None:
            # The keeper kills the group when its standard input is closed.
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()

    def abandon(self, reason: str) -> None:
        """Kill it, do not start it again, and tell clients why.

        Args:
            reason: the end of a sentence about the server.
        """
        self._stopping.set()
        self._give_up(f"{self._name} {reason}")

    def stop(self) -> None:
        """Kill it, and do not start it again."""
        self._stopping.set()
        self.kill()
        self._thread.join()

    def _supervise(self) -> None:
        failed_starts = 0
        while not self._stopping.is_set():
            was_ready = False
            try:
                self._start()
                private = self._private_socket()
                self._wait_until_healthy(private)
                self._prepare(private, partial(self._publish, private))
                was_ready = True
                failed_starts = 0
                log.info("%s is ready", self._name)
                self._watch(private)
            except (_Ended, _Stuck, NotLoaded, OSError) as error:
                if self._stopping.is_set():
                    return
                failed_starts += not was_ready
                reason = f"{self._name} {error}"
                if isinstance(error, _Stuck | Rejected):
                    return self._give_up(reason)
                if failed_starts == STARTS:
                    return self._give_up(f"{reason}; it was started {STARTS} times")
                log.warning("%s; starting it again", reason)
            finally:
                self.kill()
                # Where the keeper itself was killed, it has left processes behind.
                kill_processes_in(self._working_folder())

    def _give_up(self, reason: str) -> None:
        """Kill the server, and write for the clients why it is not started again, with the end of its log."""
        self.kill()
        atomic_write(failure_file(self.socket), f"{reason}. The end of its log:\n{self._log_end()}")

    def _start(self) -> None:
        self._starts += 1
        self._working_folder().mkdir(exist_ok=True)
        environment = server_environment(self._settings, os.environ, self.socket.parent)
        with self._log_file().open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", "-E", keeper.__file__, *server_command(self._settings, self._private_socket())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # What kills the trainer's process group leaves the keeper, which then kills that of the server.
                start_new_session=True,
                cwd=self._working_folder(),
                env={**environment, "PYTHONUNBUFFERED": "1"},
            )
        if self._stopping.is_set():
            self.kill()

    def _wait_until_healthy(self, private: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._raise_if_ended()
            if time.monotonic() > deadline:
                raise _Stuck(f"has neither answered nor ended within {START_SECONDS:.0f} s of its start")
            with contextlib.suppress(ForeignAnswerError):
                if private.exists() and call(private, "GET", "/health", HEALTH_SECONDS).status == httpx.codes.OK:
                    return
            self._stopping.wait(POLL_SECONDS)

    def _watch(self, private: Path) -> None:
        """Return never; raise when the server has ended, or has not answered for a long time."""
        last_answer = last_question = time.monotonic()
        while True:
            self._raise_if_ended()
            self._stopping.wait(POLL_SECONDS)
            now = time.monotonic()
            if now - last_question < HEALTH_SECONDS:
                continue
            last_question = now
            with contextlib.suppress(ForeignAnswerError):
                if call(private, "GET", "/health", HEALTH_SECONDS).status == httpx.codes.OK:
                    last_answer = time.monotonic()
            if time.monotonic() - last_answer > SILENT_SECONDS:
                raise _Ended(f"has not been healthy for {SILENT_SECONDS:.0f} s")

    def _raise_if_ended(self) -> None:
        # vLLM also ends with the exit code 0 when its engine has died, so that the code says nothing.
        if self._stopping.is_set():
            raise _Ended("was stopped")
        if self._keeper is not None and self._keeper.poll() is not None:
            raise _Ended(f"ended with exit code {self._keeper.returncode}")

    def _publish(self, private: Path) -> None:
        link = self.socket.with_suffix(".next")
        link.unlink(missing_ok=True)
        link.symlink_to(private.name)
        link.replace(self.socket)

    def _withdraw(self) -> None:
        self.socket.unlink(missing_ok=True)

    def _private_socket(self) -> Path:
        return self.socket.with_name(f"{self.socket.stem}-{self._starts}.vllm")

    def _working_folder(self) -> Path:
        return self.socket.with_suffix(".processes")

    def _log_file(self) -> Path:
        return self.socket.with_suffix(".log")

    def _log_end(self) -> str:
        with open_file(self._log_file()) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _LOG_BYTES))
            return printable(file.read(_LOG_BYTES).decode("utf-8", "replace"))
