"""`rft serve`: serve the model of a run on this machine, with vLLM and the gateway before it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import yaml
from rich.console import Console

from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write, open_in_place, open_new
from rft_api.foreign.files import read_file
from rft_api.foreign.text import printable
from rft_api.gateway_key import Key, is_token, make_token, secret_document, token_digest
from rft_api.gateway_routes import Route, RouteList
from rft_api.ports import free_port
from rft_api.readiness import find_address
from rft_api.run_folder import RunFolder
from rft_cli.console import make_console
from rft_cli.processes import LOG_LINES, Program
from rft_cli.served_models import ServedModels, find_models, server_command, server_environment, uses_gpus
from rft_cli.served_usage import UsageDisplay, read_usage

NAMESPACE = "default"
"""Namespace of the models and the key: that of keys which `rft keys create --folder` makes."""
KEY_NAME = "local"
POLL_SECONDS = 0.5
_DRAIN_SECONDS = 5.0
"""Time in which answers that have begun may end, after Ctrl-C."""
_LOG_SECONDS = 10.0
"""Time for which conversations are collected for one object: one user makes few, and wants to see them."""
_LONGEST_TOKEN = 1000


def serve(run_folder: Path, host: str, port: int, as_json: bool, logs: ConversationLogs | None = None) -> None:
    """Serve the model of a run until Ctrl-C or SIGTERM.

    Args:
        run_folder: the folder of the run.
        host: the address that the gateway listens on.
        port: its port; 0 is a free one.
        as_json: whether address and key are printed as JSON.
        logs: where conversations are kept; None keeps none.

    Raises:
        RunError: when it cannot be served, or a program has ended.
    """
    notes = make_console(stderr=as_json)
    folder = RunFolder(run_folder.expanduser().resolve())
    models = find_models(folder)
    files = ServingFolder(folder.path / "serving")
    with ExitStack() as stack:
        stack.enter_context(files.lock())
        stop = stack.enter_context(_signals())
        token = files.prepare()
        server = Server(models, files)
        stack.callback(server.program.stop)
        notes.print(f"starting vLLM with {', '.join(models.names)} (log: {files.server_log})", soft_wrap=True)
        if not server.wait_until_ready(stop):
            return
        files.write_routes(models, server.url, logs)
        gateway = Gateway(files, host, port)
        stack.callback(gateway.program.stop)
        if not gateway.wait_until_ready(stop):
            return
        _announce(models, f"{gateway.url}/v1", token, notes, as_json)
        with UsageDisplay(notes, models.names) as display:
            while not stop.wait(POLL_SECONDS):
                for program in (server, gateway):
                    program.fail_if_ended()
                usage = read_usage(gateway.operation_url)
                if usage is not None:
                    display.update(usage)
        kept = f", conversations are in {logs.uri}" if logs else ""
        notes.print(f"stopping; usage is in {files.ledger}{kept}", soft_wrap=True)


def _announce(models: ServedModels, url: str, token: str, notes: Console, as_json: bool) -> None:
    if as_json:
        # print instead of the console, which would wrap and colour the line.
        print(json.dumps({"url": url, "key": token}), flush=True)
        return
    notes.print(f"address  {url}", soft_wrap=True)
    notes.print(f"key      {token}", soft_wrap=True)
    notes.print(f"models   {', '.join(models.names)}", soft_wrap=True)
    question = json.dumps({"model": models.tuned, "messages": [{"role": "user", "content": "..."}]})
    notes.print(
        f"curl {url}/chat/completions -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' "
        f"-d '{question}'",
        soft_wrap=True,
    )


class ServingFolder:
    """The files of serving, in the folder of the run."""

    def __init__(self, path: Path):
        self.path = path
        self.routes = path / "routes.json"
        self.keys = path / "keys"
        self.ledger = path / "ledger.db"
        self.spool = path / "spool"
        self.server_log = path / "vllm.log"
        self.gateway_log = path / "gateway.log"
        self._token = path / "token"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the folder, and lock it, so that it is served once.

        Raises:
            RunError: OUTPUT_INVALID when it cannot be written, or is being served.
        """
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            lock = open_in_place(self.path / ".lock")
        except OSError as error:
            raise RunError(ExitCode.OUTPUT_INVALID, f"{self.path} cannot be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(ExitCode.OUTPUT_INVALID, f"{self.path.parent} is being served already") from None
            yield

    def prepare(self) -> str:
        """Write the key, and return its token, which stays the same from one start to the next."""
        self.keys.mkdir(mode=0o700, exist_ok=True)
        try:
            token = read_file(self._token, _LONGEST_TOKEN).decode("ascii", "replace").strip()
        except (OSError, ValueError):
            token = ""
        if not is_token(token):
            token = make_token()
            with open_new(self._token) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(token.encode())
        key = Key(name=KEY_NAME, namespace=NAMESPACE, digest=token_digest(token))
        atomic_write(self.keys / f"{KEY_NAME}.yaml", yaml.safe_dump(secret_document(key), sort_keys=False))
        return token

    def write_routes(self, models: ServedModels, server: str, logs: ConversationLogs | None) -> None:
        """Write the models and their server for the gateway."""
        routes = [
            Route(namespace=NAMESPACE, model=name, base=models.base, served_model=name, servers=[server], logs=logs)
            for name in models.names
        ]
        atomic_write(self.routes, RouteList(routes=routes).model_dump_json(by_alias=True, indent=2) + "\n")


class Server:
    """vLLM, as a child process."""

    def __init__(self, models: ServedModels, files: ServingFolder):
        port, on_gpus = free_port(), uses_gpus()
        self.url = f"http://127.0.0.1:{port}"
        command = server_command(models, port, on_gpus)
        self.program = Program(command, files.server_log, server_environment(os.environ, on_gpus))

    def wait_until_ready(self, stop: threading.Event) -> bool:
        """Wait until it answers; return False when it is time to stop.

        Raises:
            RunError: when it has ended.
        """
        while not stop.wait(POLL_SECONDS):
            self.fail_if_ended()
            try:
                if httpx.get(f"{self.url}/health", timeout=10, trust_env=False).is_success:
                    return True
            except httpx.TransportError:
                pass
        return False

    def fail_if_ended(self) -> None:
        """Raise RunError when it has ended."""
        _fail_if_ended("vLLM", self.program)


class Gateway:
    """The gateway, as a child process.

    Args:
        files: its files.
        host: the address that it listens on.
        port: the port; 0 is a free one.
    """

    def __init__(self, files: ServingFolder, host: str, port: int):
        operation_port = free_port()
        self.operation_url = f"http://127.0.0.1:{operation_port}"
        self.url = ""
        command = [
            sys.executable, "-m", "rft_gateway", "--routes", str(files.routes), "--keys", str(files.keys),
            "--ledger", str(files.ledger), "--host", host, "--port", str(port),
            "--operation-port", str(operation_port), "--drain-seconds", f"{_DRAIN_SECONDS:g}",
            "--spool", str(files.spool), "--log-seconds", f"{_LOG_SECONDS:g}",
        ]  # fmt: skip
        self.program = Program(command, files.gateway_log, os.environ)

    def wait_until_ready(self, stop: threading.Event) -> bool:
        """Wait until it listens; return False when it is time to stop.

        Raises:
            RunError: when it has ended.
        """
        while not stop.wait(POLL_SECONDS / 5):
            self.fail_if_ended()
            self.url = find_address(self.program.output()) or ""
            if self.url:
                return True
        return False

    def fail_if_ended(self) -> None:
        """Raise RunError when it has ended."""
        _fail_if_ended("the gateway", self.program)


def _fail_if_ended(name: str, program: Program) -> None:
    code = program.exit_code()
    if code is None:
        return
    tail = printable(program.last_lines(LOG_LINES))
    known = code == ExitCode.CONFIGURATION_INVALID
    raise RunError(
        ExitCode.CONFIGURATION_INVALID if known else ExitCode.UNEXPECTED,
        f"{name} has ended with code {code}; the end of {program.log}:\n{tail}",
    )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set an event at Ctrl-C or SIGTERM, until the block ends."""
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
