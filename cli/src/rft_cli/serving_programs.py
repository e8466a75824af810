"""The programs that `rft serve` starts: vLLM, the loader and the gateway."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from rft_api.adapter_protocol import (
    ADAPTERS_PATH,
    AdapterList,
    AdapterReport,
    AdapterReports,
    ListedAdapter,
    find_total,
)
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write
from rft_api.foreign.http import ForeignAnswerError, ask_once
from rft_api.foreign.text import printable
from rft_api.ports import free_port
from rft_api.readiness import find_address
from rft_api.termination import find_end
from rft_cli.processes import LOG_LINES, Program
from rft_cli.serving_folder import ServingFolder
from rft_cli.stage_display import StageDisplay

POLL_SECONDS = 0.5
_DRAIN_SECONDS = 5.0
"""Time in which answers that have begun may end, after Ctrl-C."""
_LOG_SECONDS = 10.0
"""Time for which conversations are collected for one object: one user makes few, and wants to see them."""
_REPORT_SECONDS = 5.0
_LARGEST_REPORT = 8 << 20
_TRACING_PREFIX = "OTEL_"


class Server:
    """vLLM, as a child process that only this machine reaches.

    Args:
        command: the command that starts it, without its address.
        log: the file of its output.
        environment: its environment variables.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.program = Program([*command, "--host", "127.0.0.1", "--port", str(port)], log, environment)

    def is_ready(self) -> bool:
        """Return whether it answers.

        Raises:
            RunError: when it has ended.
        """
        self.fail_if_ended()
        try:
            return httpx.get(f"{self.url}/health", timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def fail_if_ended(self) -> None:
        """Raise RunError when it has ended."""
        _fail_if_ended("vLLM", self.program)


def run_fetch(address: str, folder: Path, log: Path, stop: threading.Event, stage: StageDisplay) -> bool:
    """Fetch a model with the loader; return False when it is time to stop.

    Args:
        address: where the model is.
        folder: where it goes; a folder that is complete is only compared with the address.
        log: the file of the loader's output.
        stop: set when it is time to stop.
        stage: shows how far it is.

    Raises:
        RunError: MODEL_INVALID when there is no such model; with another code when it cannot be fetched now.
    """
    command = [sys.executable, "-m", "rft_loader", "fetch", "--uri", address, "--to", str(folder), "--newest"]
    program = Program(command, log, os.environ)
    try:
        while not stop.wait(POLL_SECONDS):
            code = program.exit_code()
            if code is None:
                total = find_total(program.output()) or 0
                stage.update(f"fetching {address}", _bytes_of(folder) // 10**6, total // 10**6, "MB")
                continue
            if code == ExitCode.SUCCEEDED:
                return True
            reason = find_end(program.output()) or program.last_lines(LOG_LINES)
            has_meaning = code in (ExitCode.MODEL_INVALID, ExitCode.OUTPUT_FAILED, ExitCode.STORAGE_UNREACHABLE)
            raise RunError(ExitCode(code) if has_meaning else ExitCode.UNEXPECTED, printable(reason))
    finally:
        program.stop()
    return False


def _bytes_of(folder: Path) -> int:
    """Return the size of what has come of a folder that is being fetched, in one whose name begins with its own."""
    total = 0
    for path in folder.parent.glob(f"{folder.name}.*/**/*"):
        with suppress(OSError):  # a file may have got its final name meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


class Loader:
    """The loader, which fetches, checks and loads the adapters of a server that starts, as a child process.

    Args:
        files: the folder of serving.
        name: name of the base endpoint.
        base: folder of the base model.
        server: address of the server.
        maximum_rank: the largest rank that an adapter may have.
        adapters: addresses of the adapters, by name.
    """

    def __init__(
        self, files: ServingFolder, name: str, base: Path, server: str, maximum_rank: int, adapters: Mapping[str, str]
    ):
        port = free_port()
        self._reports_url = f"http://127.0.0.1:{port}{ADAPTERS_PATH}"
        listed = AdapterList(adapters=[ListedAdapter(name=key, uri=uri) for key, uri in adapters.items()])
        atomic_write(files.adapter_list(name), listed.model_dump_json(by_alias=True, indent=2) + "\n")
        command = [
            sys.executable, "-m", "rft_loader", "follow", "--adapters", str(files.adapter_list(name)),
            "--folder", str(files.adapters / name), "--base", str(base), "--server", server,
            "--maximum-rank", str(maximum_rank), "--host", "127.0.0.1", "--port", str(port), "--new-server",
        ]  # fmt: skip
        self.program = Program(command, files.loader_log(name), os.environ)

    def reports(self) -> dict[str, AdapterReport]:
        """Return how far each adapter is; nothing while the loader starts.

        Raises:
            RunError: when it has ended.
        """
        _fail_if_ended("the adapter loader", self.program)
        try:
            answer = ask_once("GET", self._reports_url, _REPORT_SECONDS, _LARGEST_REPORT)
            reports = AdapterReports.model_validate_json(answer.body).adapters
        except (ForeignAnswerError, ValueError):
            return {}
        return {report.name: report for report in reports}


class Gateway:
    """The gateway, as a child process. It makes no traces.

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
            "--spool", str(files.spool), "--log-seconds", f"{_LOG_SECONDS:g}", "--files", str(files.files),
        ]  # fmt: skip
        # OpenTelemetry's variables are often there for other programs, and a collector that the gateway cannot speak to
        # would end it.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_TRACING_PREFIX)}
        self.program = Program(command, files.gateway_log, environment)

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
    is_invalid = code == ExitCode.CONFIGURATION_INVALID
    raise RunError(
        ExitCode.CONFIGURATION_INVALID if is_invalid else ExitCode.UNEXPECTED,
        f"{name} has ended with code {code}; the end of {program.log}:\n{tail}",
    )
