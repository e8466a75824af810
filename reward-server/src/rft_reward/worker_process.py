"""The server's side of one worker: starts it, sends it batches, and ends it with everything that it started."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_api.foreign.text import quoted
from rft_api.reward_protocol import error_line
from rft_reward import frames, processes, replies, sandbox, watch

START_SECONDS = 60.0
GRACE_SECONDS = 0.5
"""Time in which an interrupted worker must report the line that it was at."""
WATCH_SECONDS = 0.1
"""Time between two measurements of what the processes of a worker use together."""
LOGGED_BYTES = 4096
"""Maximum output of a batch in the server's log."""

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_PIPE_BYTES = 1 << 20
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); from rft_reward.worker import main; main(*map(int, sys.argv[2:]))"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The workers use the processors, so their libraries need no threads of their own, each of which reserves memory."""
_logger = logging.getLogger(__name__)

running: set[int] = set()
"""Process ids of the running workers of this server, whose descendants are not strays."""


class WorkerLost(Exception):
    """A worker has ended, or has to be ended, during a batch."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of the workers of a server."""

    terms: list[dict[str, Any]]
    """The graders: {"python", "builtin" or "openai": options}, and {"module": name of the module} for Python code."""
    function_name: str
    memory: str
    """Memory limit as in the manifest, for messages."""
    memory_bytes: int
    needs_libraries: bool
    """Whether a grader imports more than the standard library."""
    folder: str
    """The folder in which each worker gets one of its own."""
    hidden_file: str | None
    readable: list[str]
    """Files and folders that the code may read, as in the manifest."""
    runs_code: bool
    """Whether a grader runs code of the user."""
    code_path: list[str]
    """Folders from which the code of the user imports: its own files, and its packages."""
    code_imports: list[str]
    """Modules of packages that the code imports."""
    companions: int
    """Number of companions of a worker: processes that belong to it."""


@dataclass(frozen=True)
class Reply:
    """The reply of a worker to a batch."""

    answers: list[Mapping[str, Any]]
    """One answer per term: {"rows"} or {"failure", "text"}."""
    leftovers: str | None
    """What the batch left behind, so that the worker must be replaced: "leftover_processes" or "leftover_files"."""
    size: int
    """Number of bytes."""


class WorkerProcess:
    """One worker, from its start to its end. After a failure, a worker is not used again."""

    def __init__(self, settings: WorkerSettings):
        self._settings = settings
        self.lost = asyncio.Event()
        """Set when this worker must not be used any more."""
        self.asked = False
        """Whether it has received a batch."""
        self.layers: dict[str, bool] = {}
        """Layers of the sandbox, by name, and whether the worker has them."""
        self.refusals: list[str] = []
        """Reasons why layers are missing."""
        self.warnings: list[str] = []
        """What its code can do although it should not."""
        self._exchanging = asyncio.Lock()
        self._logged = bytearray()
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: str | None = None
        self._worker = 0
        self._own_processes = 0
        self._watch: watch.Watch | None = None
        self._excessive = False
        self._excess: WorkerLost | None = None
        self._next_look: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._attached = contextlib.ExitStack()

    async def start(self) -> None:
        """Start the process, and wait until the reward is loaded.

        Raises:
            WorkerLost: the reward could not be loaded; with the error of the user's code, if there is one.
        """
        self._scratch = tempfile.mkdtemp(prefix="worker-", dir=self._settings.folder)
        if os.geteuid() == 0:
            os.chown(self._scratch, sandbox.UNPRIVILEGED_ID, sandbox.UNPRIVILEGED_ID)
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        self._log, log_end = os.pipe()
        for descriptor in (request_end, reply_end):
            with contextlib.suppress(OSError):  # the user's pipe memory is used up, which makes the pipe slower
                fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)
        package = str(Path(__file__).parent.parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOTSTRAP, package, str(request_end), str(reply_end)],
                stdin=subprocess.DEVNULL,
                stdout=log_end,
                stderr=log_end,
                cwd=self._scratch,
                # With more arenas, glibc would reserve 64 MiB of the address space for each thread.
                env={"MALLOC_ARENA_MAX": "1", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", **_ONE_THREAD},
                pass_fds=(request_end, reply_end),
                start_new_session=True,
            )
        except OSError:
            for descriptor in (self._requests, self._replies, self._log):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (request_end, reply_end, log_end):
                os.close(descriptor)
        running.add(self._process.pid)
        await self._attach(self._process.pid)
        configuration = {
            "terms": self._settings.terms,
            "functionName": self._settings.function_name,
            "memoryBytes": self._settings.memory_bytes,
            "path": site.getsitepackages() if self._settings.needs_libraries else [],
            "runsCode": self._settings.runs_code,
            "codePath": self._settings.code_path,
            "codeImports": self._settings.code_imports,
            "enclosure": {
                "server_pid": os.getpid(),
                "scratch": self._scratch,
                "hidden_file": self._settings.hidden_file,
                "readable": self._settings.readable,
                "confines": not self._settings.runs_code,
            },
        }
        async with self._exchanging:
            hello, _ = await self._exchange(json.dumps(configuration).encode(), START_SECONDS, "starting", 1)
        self._look_into(hello)
        # From here on, code of users runs in the worker, and could write replies itself.
        async with self._exchanging:
            loaded, _ = await self._exchange(b"", START_SECONDS, "loading the code", 1)
        match loaded:
            case {"error": None}:
                return
            case {"error": str(error)}:
                self.lost.set()
                raise WorkerLost("start", error_line(error))
            case _:
                raise self._garbled()

    def _look_into(self, hello: Mapping[str, Any]) -> None:
        """Store what a worker reports about its sandbox before it loads any code of users."""
        if hello["error"] is not None:
            self.lost.set()
            raise WorkerLost("start", str(hello["error"]))
        assert self._process is not None
        assert self._scratch is not None
        self.layers, self.refusals, self.warnings = hello["layers"], hello["refusals"], hello["warnings"]
        self._worker = processes.descendant(self._process.pid, hello["generations"])
        self._own_processes = hello["generations"] + self._settings.companions
        # In a namespace the folder is a file system with its own size.
        scratch = None if self.layers["namespaces"] else Path(self._scratch)
        self._watch = watch.Watch(
            self._worker,
            self._settings.memory,
            self._settings.memory_bytes,
            scratch,
            own_network=self.layers["namespaces"],
        )

    async def ask(self, batch: bytes, samples: int, seconds: float) -> Reply:
        """Score a batch, which is a JSON array of so many samples.

        Raises:
            WorkerLost: the worker took too long, ended, or sent an invalid reply. It is `lost` then.
        """
        timer = asyncio.get_running_loop().call_later(seconds, self._interrupt)
        try:
            async with self._exchanging:
                reply, size = await self._exchange(batch, seconds, "scoring", samples * len(self._settings.terms))
        finally:
            timer.cancel()
        answers = reply.get("answers")
        if (
            not isinstance(answers, list)
            or len(answers) != len(self._settings.terms)
            or not all(isinstance(answer, dict) for answer in answers)
        ):
            raise self._garbled()
        return Reply(answers, self._leftovers(bool(reply.get("crowded"))), size)

    def _leftovers(self, crowded: bool) -> str | None:
        assert self._process is not None
        assert self._watch is not None
        # The server counts them itself, because the code could report that there are none.
        if processes.has_more(self._process.pid, self._own_processes):
            return "leftover_processes"
        return "leftover_files" if crowded or self._watch.crowded() else None

    async def end(self) -> None:
        """Kill the worker and everything that it started, and remove its folder."""
        self.lost.set()
        async with self._exchanging:  # a batch in progress reports how the worker ended
            if self._process is not None:
                await self._end(self._process)
        if self._scratch is not None:
            await asyncio.to_thread(watch.remove, Path(self._scratch))

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        running.discard(process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        while process.poll() is None:
            await asyncio.sleep(0.002)
        if not await processes.end_strays(running):
            _logger.error("processes of a worker could not be killed: %s", processes.strays(running))
        self._write_log()
        self._attached.close()

    async def _attach(self, process: int) -> None:
        loop, attached = asyncio.get_running_loop(), self._attached
        self._reader = asyncio.StreamReader(limit=1 << 20)
        os.set_blocking(self._log, False)
        attached.callback(os.close, self._log)
        loop.add_reader(self._log, self._read_log)
        attached.callback(loop.remove_reader, self._log)
        # uvloop closes the descriptor of a pipe by itself, and closes its file object after that. By then, a thread may
        # have opened something else under the same number, so the file objects leave the descriptors open.
        replies, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader),
            os.fdopen(self._replies, "rb", buffering=0, closefd=False),
        )
        attached.callback(replies.close)
        self._writer, _ = await loop.connect_write_pipe(
            asyncio.Protocol, os.fdopen(self._requests, "wb", buffering=0, closefd=False)
        )
        attached.callback(self._writer.close)
        # A process that has inherited the pipes could keep them open, so the end of the worker itself is watched.
        self._pidfd = os.pidfd_open(process)
        attached.callback(os.close, self._pidfd)
        loop.add_reader(self._pidfd, self._ended)
        attached.callback(loop.remove_reader, self._pidfd)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._reader.feed_eof()
        self.lost.set()

    async def _exchange(self, payload: bytes, seconds: float, doing: str, rows: int) -> tuple[dict[str, Any], int]:
        """Send a request. Return the reply, which may have so many rows, and its size."""
        # Each batch has a new nonce, so that code of an earlier batch that still runs cannot reply to a later one.
        nonce = secrets.token_bytes(frames.NONCE_BYTES)
        self._writer.write(frames.REQUEST_HEADER.pack(len(payload), nonce, seconds) + payload)
        self._look_later()
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                size, answered = frames.REPLY_HEADER.unpack(await self._reader.readexactly(frames.REPLY_HEADER.size))
                if answered != nonce:
                    raise self._garbled()
                limit = replies.maximum_bytes(rows, len(payload))
                if size > limit:
                    self.lost.set()
                    raise WorkerLost("too_large", replies.too_large(rows, limit))
                answer = await self._reader.readexactly(size)
                if size > replies.OFF_LOOP_BYTES:
                    reply = await asyncio.to_thread(replies.parse, answer, rows, payload)
                else:
                    reply = replies.parse(answer, rows, payload)
        except TimeoutError:
            self.lost.set()
            raise WorkerLost("timeout", f"{doing} took more than {seconds:g} s") from None
        except asyncio.IncompleteReadError:
            loss = await self._explain_end(doing)
            self.lost.set()
            raise loss from None
        except replies.TooMuch as error:
            self.lost.set()
            raise WorkerLost("too_large", str(error)) from None
        except (ValueError, RecursionError):
            raise self._garbled() from None
        finally:
            if self._next_look is not None:
                self._next_look.cancel()
            self._write_log()
        if not isinstance(reply, dict):
            raise self._garbled()
        return reply, size

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look)

    def _look(self) -> None:
        self._next_look = asyncio.get_running_loop().create_task(self._measure())

    async def _measure(self) -> None:
        """Kill the worker if its processes together exceed a limit, now and at the previous measurement."""
        if self._watch is not None and self._process is not None:
            # In a thread, because the kernel has those wait who ask for the locks of all processes.
            excess = await asyncio.to_thread(self._watch.excess)
            if excess is not None and (self._excessive or excess.is_certain):
                self._excess = WorkerLost(excess.reason, excess.message)
                self.lost.set()
                self._process.kill()
                return
            self._excessive = excess is not None
        self._look_later()

    def _garbled(self) -> WorkerLost:
        self.lost.set()
        return WorkerLost(
            "garbled",
            "the worker's answer was garbled: the code must not write to file descriptors that it did not open",
        )

    async def _explain_end(self, doing: str) -> WorkerLost:
        assert self._process is not None
        for _ in range(200):  # the pipe closes shortly before the process ends
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.005)
        if self._excess is not None:
            return self._excess
        code = self._process.poll()
        number = None if code is None else -code if code < 0 else code - 128 if code > 128 else None
        if number == signal.SIGXCPU:
            return WorkerLost("cpu", f"{doing} used more processor time than spec.timeout: make the code faster")
        if number == signal.SIGKILL:
            hint = f"memory may have run out: use less than {self._settings.memory}, or give the pod more"
            return WorkerLost("crashed", f"the worker was killed while {doing} ({hint})")
        if number is not None and number in signal.valid_signals():
            name = signal.Signals(number).name
            return WorkerLost("crashed", f"the worker crashed while {doing} ({name}): the code or a library failed")
        if code is None or code == frames.PIPE_LOST:
            return WorkerLost("garbled", f"the code closed file descriptors of the worker while {doing}")
        return WorkerLost("crashed", f"the code ended its process while {doing} (exit code {code}): it must return")

    def _interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._worker, signal.SIGUSR1)

    def _read_log(self) -> None:
        # All output is read, so that no worker blocks, and its beginning is kept.
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self._log, 1 << 16)
            self._logged += chunk[: LOGGED_BYTES + 1 - len(self._logged)]
            if not chunk:
                asyncio.get_running_loop().remove_reader(self._log)

    def _write_log(self) -> None:
        self._read_log()
        if self._logged:
            text = self._logged[:LOGGED_BYTES].decode("utf-8", "replace")
            more = " ... (cut)" if len(self._logged) > LOGGED_BYTES else ""
            # The output is escaped, so that code cannot forge lines of this log.
            _logger.info("the reward code printed: %s%s", quoted(text), more)
            self._logged.clear()
