"""Serves the model of a run: one vLLM, with the base model and the adapter or with the tuned model."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack

from rich.console import Console

from rft_api.conversation_logs import ConversationLogs
from rft_api.gateway_routes import Route
from rft_cli.served_models import NAMESPACE, ServedModels
from rft_cli.serving_folder import ServingFolder
from rft_cli.serving_programs import POLL_SECONDS, Server
from rft_cli.stage_display import shown_stage
from rft_cli.vllm_command import find_gpus, server_command, server_environment


class RunServing:
    """The server of a run.

    Args:
        models: what is served.
        logs: where conversations are kept; None keeps none.
        notes: where progress is printed.
    """

    namespace = NAMESPACE

    def __init__(self, models: ServedModels, logs: ConversationLogs | None, notes: Console):
        self.names = models.names
        self.question_model = models.tuned
        self._models, self._logs, self._notes = models, logs, notes
        self._server: Server | None = None

    def start(self, files: ServingFolder, stack: ExitStack, stop: threading.Event) -> list[Route] | None:
        """See `Serving`."""
        models, gpus = self._models, find_gpus(os.environ)
        name = models.tuned if models.adapter is None else models.base
        command = server_command(models.model, name, bool(gpus), models.arguments())
        log = files.server_log()
        server = self._server = Server(command, log, server_environment(os.environ, gpus))
        stack.callback(server.program.stop)
        self._notes.print(f"starting vLLM with {', '.join(models.names)} (log: {log})", soft_wrap=True)
        with shown_stage(self._notes) as stage:
            while not server.is_ready():
                # vLLM does not say how long its start takes. Its last line says what it does.
                stage.update("waiting for vLLM", detail=server.program.last_lines(1))
                if stop.wait(POLL_SECONDS):
                    return None
        return models.routes(server.url, self._logs)

    def watch(self) -> None:
        """See `Serving`."""
        if self._server is not None:
            self._server.fail_if_ended()
