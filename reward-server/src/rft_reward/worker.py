"""The program of a worker: runs reward code in the sandbox, and receives batches over one of two pipes.

It imports only the standard library, and the libraries of builtins if they are needed, so that a worker starts quickly.
`worker_process` starts it as `main(request descriptor, reply descriptor)`. The first request is the configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import struct
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rft_reward import companions, frames, sandbox
from rft_reward.graders.term import Call, Grade, TimeLimit, Unscorable


def main(request_descriptor: int, reply_descriptor: int) -> None:
    """Enter the sandbox, load the reward, and score batches until the server closes the pipe."""
    requests = os.fdopen(request_descriptor, "rb", buffering=1 << 16)
    call, payload = _read(requests)
    configuration = json.loads(payload)
    python_folders, server_folders = len(sys.path) - 1, 1 + len(configuration["path"])  # the last is the server's own
    sys.path.extend([*configuration["path"], *configuration["codePath"]])
    try:
        confinement = sandbox.enter(sandbox.Enclosure(**configuration["enclosure"]))
    except OSError as error:
        refusal = {"error": f"the sandbox could not be set up: {error}"}
        _reply(reply_descriptor, call.nonce, json.dumps(refusal).encode())
        return
    os.environ["TMPDIR"] = os.environ["HOME"] = str(Path.cwd())
    interruptible = _Interruptible()
    # Libraries are imported first, so that they do not count against the memory limit of the user's code.
    builders = [_builder(term, configuration) for term in configuration["terms"]]
    _reply(reply_descriptor, call.nonce, json.dumps({**dataclasses.asdict(confinement), "error": None}).encode())
    call, _ = _read(requests)
    problem = None
    try:
        if configuration["runsCode"]:
            # The user's code finds Python's library and its own folders. What it may import is the same everywhere.
            del sys.path[python_folders : python_folders + server_folders]
        _import_packages(configuration["codeImports"])
        sandbox.limit_memory(configuration["memoryBytes"])
        grades = [build() for build in builders]
    except (Unscorable, MemoryError) as error:
        problem = str(error) or "the code ran out of memory while it was loaded: raise spec.sandbox.memory"
        grades = []
    except BlockingIOError:  # of os.fork, for the processes that belong to the worker
        problem = "no process can be started: the user of the server has too many processes on this machine"
        grades = []
    _reply(reply_descriptor, call.nonce, json.dumps({"error": problem}).encode())
    while True:
        call, payload = _read(requests)
        sandbox.limit_processor_time(call.seconds)
        answers = [interruptible.run(grade, payload, call) for grade in grades]
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the code has closed or replaced it
                continue
        companions.collect()
        crowded = b"true" if sandbox.is_crowded(own_scratch=confinement.layers["namespaces"]) else b"false"
        _reply(reply_descriptor, call.nonce, b'{"answers": [%b], "crowded": %b}' % (b", ".join(answers), crowded))


def _import_packages(modules: list[str]) -> None:
    """Import what the code imports from packages, so that they do not count against the memory limit of the code.

    The sandbox confines them already. A failure is reported when the code imports the module itself.
    """
    for module in modules:
        with contextlib.suppress(BaseException):
            importlib.import_module(module)


class _Interruptible:
    """Runs graders. A signal of the server at the end of the time limit interrupts them, with a traceback."""

    def __init__(self) -> None:
        self._running = False
        signal.signal(signal.SIGUSR1, self._interrupt)

    def _interrupt(self, signal_number: int, frame: object) -> None:
        if self._running:
            self._running = False
            raise TimeLimit

    def run(self, grade: Grade, payload: bytes, call: Call) -> bytes:
        """Return the result of a grader as JSON: `{"rows": ...}` or `{"failure": reason, "text": ...}`."""
        if time.monotonic() > call.deadline:  # an earlier term has used all the time
            return _failure("timeout")
        try:
            self._running = True
            try:
                rows = grade(payload, call)
            finally:
                self._running = False
            return b'{"rows": %b}' % rows
        except Unscorable as error:
            return _failure(error.reason, str(error))
        except TimeLimit:
            return _failure("timeout")
        except MemoryError:
            return _failure("memory")


def _failure(reason: str, text: str = "") -> bytes:
    return json.dumps({"failure": reason, "text": text}).encode()


def _builder(term: dict[str, Any], configuration: dict[str, Any]) -> Callable[[], Grade]:
    """Import the libraries that a term needs. The function that is returned loads the user's code or options."""
    if "python" in term:
        from rft_reward.graders import python_code
        from rft_reward.handler_samples import HandlerForm

        code, name, memory = term["python"], configuration["functionName"], configuration["memoryBytes"]
        folder = next(iter(configuration["codePath"]), None) if code["hasFiles"] else None
        return lambda: python_code.load(
            code["source"],
            code["handler"],
            term["module"],
            name,
            memory,
            zero_on_error=code["zeroOnError"],
            form=HandlerForm(code["textInObject"], code["assistantRole"]),
            folder=folder,
            by_group=code["byGroup"],
        )
    if "openai" in term:
        from rft_reward.graders import openai_grader

        return openai_grader.prepare(term["openai"])
    from rft_reward.graders import builtin

    name, options = term["builtin"]["name"], term["builtin"]["options"]
    if builtin.BUILDERS[name].processes:
        builtin.BUILDERS[name].load()
        return lambda: builtin.build(name, options)  # its processes must start under the memory limit
    grade = builtin.build(name, options)
    return lambda: grade


def _read(requests: BinaryIO) -> tuple[Call, bytes]:
    try:
        header = requests.read(frames.REQUEST_HEADER.size)
    except OSError:
        os._exit(frames.PIPE_LOST)
    if len(header) < frames.REQUEST_HEADER.size:
        os._exit(0)  # the server has closed the pipe
    size, nonce, seconds = frames.REQUEST_HEADER.unpack(header)
    call = Call(nonce, seconds, time.monotonic() + seconds, str(uuid.uuid4()))
    return call, requests.read(size)


def _reply(descriptor: int, nonce: bytes, payload: bytes) -> None:
    view = memoryview(struct.pack(frames.REPLY_HEADER.format, len(payload), nonce) + payload)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os._exit(frames.PIPE_LOST)
