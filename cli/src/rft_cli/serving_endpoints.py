"""Serves the endpoints of manifests as a pod of each base endpoint does: fetch, one vLLM, and the adapter loader."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from rft_api import vllm_server
from rft_api.adapter_protocol import AdapterReport
from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.gateway_routes import Route
from rft_api.inference_endpoint import serving_of
from rft_cli.served_endpoints import EndpointServer, ServedEndpoint, log_of
from rft_cli.serving_folder import ServingFolder
from rft_cli.serving_programs import POLL_SECONDS, Loader, Server, run_fetch
from rft_cli.stage_display import shown_stage
from rft_cli.vllm_command import server_command, server_environment

_STATES = {"Loading": "", "Loaded": "ready", "Failed": "failed"}
"""States of adapters as they are printed; what is loading has a message that says so."""


@dataclass
class _Running:
    """The programs of a base endpoint."""

    plan: EndpointServer
    server: Server
    loader: Loader | None
    is_ready: bool = False
    reports: dict[str, AdapterReport] = field(default_factory=dict)
    """What the loader has last said of each adapter."""

    def missing(self) -> list[str]:
        """Return the names of the models that do not answer yet."""
        names = [] if self.is_ready else [self.plan.base.name]
        for adapter in self.plan.adapters:
            report = self.reports.get(adapter.name)
            if report is None or report.state != "Loaded":
                names.append(adapter.name)
        return names


class EndpointServing:
    """The servers of endpoints.

    Args:
        plans: what is served.
        logs: the log of the command line; see `log_of`.
        notes: where progress is printed.
    """

    def __init__(self, plans: Sequence[EndpointServer], logs: ConversationLogs | None, notes: Console):
        endpoints = [served for plan in plans for served in plan.endpoints]
        adapters = [served.name for plan in plans for served in plan.adapters]
        self.namespace = endpoints[0].endpoint.metadata.namespace
        self.names = tuple(served.name for served in endpoints)
        self.question_model = (adapters or self.names)[0]
        self._plans, self._logs, self._notes = plans, logs, notes
        self._running: list[_Running] = []

    def start(self, files: ServingFolder, stack: ExitStack, stop: threading.Event) -> list[Route] | None:
        """See `Serving`."""
        folders = []
        for plan in self._plans:
            folder = self._fetch(plan.base, files, stop)
            if folder is None:
                return None
            folders.append(folder)
        for plan, folder in zip(self._plans, folders, strict=True):
            self._running.append(self._start_server(plan, folder, files, stack))
        if not self._wait(stop):
            return None
        self._announce_logs()
        return [route for each in self._running for route in each.plan.routes(each.server.url, self._logs)]

    def watch(self) -> None:
        """See `Serving`. What the loader says is printed when it changes."""
        for each in self._running:
            each.server.fail_if_ended()
            self._note_reports(each)

    def _fetch(self, base: ServedEndpoint, files: ServingFolder, stop: threading.Event) -> Path | None:
        """Return the folder of a base model, which is fetched if it is not on this machine; None to stop."""
        if not base.is_remote:
            return Path(base.address)
        folder, log = files.model(base.name, base.address), files.loader_log(base.name)
        self._say(base.name, f"fetching {base.address} to {folder} (log: {log})")
        with shown_stage(self._notes) as stage:
            try:
                is_done = run_fetch(base.address, folder, log, stop, stage)
            except RunError as error:
                raise RunError(error.code, str(base.address_error(error.message))) from None
        return folder if is_done else None

    def _start_server(self, plan: EndpointServer, folder: Path, files: ServingFolder, stack: ExitStack) -> _Running:
        name, log = plan.base.name, files.server_log(plan.base.name)
        self._say(name, f"starting vLLM (log: {log})")
        environment = server_environment(os.environ, plan.gpus)
        if plan.adapters:
            environment |= vllm_server.LOADER_ENVIRONMENT
        server = Server(server_command(str(folder), name, bool(plan.gpus), plan.arguments()), log, environment)
        stack.callback(server.program.stop)
        loader = None
        if plan.adapters:
            rank = serving_of(plan.base.endpoint).max_adapter_rank
            addresses = {adapter.name: adapter.address for adapter in plan.adapters}
            loader = Loader(files, name, folder, server.url, rank, addresses)
            stack.callback(loader.program.stop)
        return _Running(plan, server, loader)

    def _wait(self, stop: threading.Event) -> bool:
        """Wait until all models answer; return False when it is time to stop.

        Raises:
            RunError: when a program has ended; MODEL_INVALID when an adapter cannot be served until somebody
                changes something.
        """
        with shown_stage(self._notes) as stage:
            while not stop.wait(POLL_SECONDS):
                for each in self._running:
                    if not each.is_ready and each.server.is_ready():
                        each.is_ready = True
                        self._say(each.plan.base.name, "ready")
                    each.server.fail_if_ended()
                    self._note_reports(each)
                    _fail_if_rejected(each)
                waiting = [each for each in self._running if each.missing()]
                if not waiting:
                    return True
                names = ", ".join(name for each in waiting for name in each.missing())
                line = waiting[0].server.program.last_lines(1)
                stage.update(f"waiting for {names}", detail=line)
        return False

    def _note_reports(self, each: _Running) -> None:
        reports = each.loader.reports() if each.loader is not None else {}
        for name, report in reports.items():
            if report != each.reports.get(name):
                self._say(name, _describe(report))
        each.reports |= reports

    def _announce_logs(self) -> None:
        for served in (served for plan in self._plans for served in plan.endpoints):
            logs = log_of(served.endpoint, self._logs)
            if logs is not None:
                self._say(served.name, f"conversations are kept in {logs.uri}")

    def _say(self, name: str, text: str) -> None:
        self._notes.print(one_line(f"{name}: {text}"), soft_wrap=True)


def _describe(report: AdapterReport) -> str:
    state = _STATES[report.state]
    if report.state == "Failed" and not report.permanent:
        state = "failed for now"  # the loader tries again
    return ": ".join(filter(None, [state, report.message]))


def _fail_if_rejected(each: _Running) -> None:
    for adapter in each.plan.adapters:
        report = each.reports.get(adapter.name)
        if report is not None and report.state == "Failed" and report.permanent:
            raise RunError(ExitCode.MODEL_INVALID, str(adapter.address_error(report.message)))
