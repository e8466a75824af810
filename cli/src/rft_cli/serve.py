"""`rft serve`: serve the model of a run, or endpoints of manifests, on this machine, with the gateway before vLLM."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console

from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.gateway_routes import Route
from rft_api.ports import ListenError, listen
from rft_api.run_folder import RunFolder
from rft_cli.check import manifest_files
from rft_cli.console import make_console
from rft_cli.served_endpoints import plan_servers
from rft_cli.served_models import find_models
from rft_cli.served_usage import UsageDisplay, read_usage
from rft_cli.serving_endpoints import EndpointServing
from rft_cli.serving_folder import ServingFolder
from rft_cli.serving_programs import POLL_SECONDS, Gateway
from rft_cli.serving_run import RunServing
from rft_cli.vllm_command import find_gpus

_FOLDER = "serving"
"""Name of the folder of serving, in that of the run or beside the first manifest."""


class Serving(Protocol):
    """The servers of what is served."""

    namespace: str
    """Namespace of the models."""
    names: tuple[str, ...]
    """Names of the models."""
    question_model: str
    """The model of the request that is printed to try."""

    def start(self, files: ServingFolder, stack: ExitStack, stop: threading.Event) -> list[Route] | None:
        """Start the servers, wait for them, and return the models with their addresses; None when it is time to stop.

        Args:
            files: the folder of serving.
            stack: gets what ends the servers.
            stop: set when it is time to stop.

        Raises:
            RunError: when a model cannot be served.
        """

    def watch(self) -> None:
        """Look after the servers.

        Raises:
            RunError: when one of them has ended.
        """


def serve(
    paths: Sequence[Path],
    host: str,
    port: int,
    as_json: bool,
    folder: Path | None = None,
    logs: ConversationLogs | None = None,
) -> None:
    """Serve the model of a run, or endpoints, until Ctrl-C or SIGTERM.

    Args:
        paths: the folder of a run, or manifests.
        host: the address that the gateway listens on.
        port: its port; 0 is a free one.
        as_json: whether address and key are printed as JSON.
        folder: the folder for key, ledger, logs and models; by default `serving`, in the run or beside the first
            manifest.
        logs: where conversations are kept, in place of what manifests say.

    Raises:
        ManifestErrors: when endpoints cannot be served.
        RunError: when it cannot be served, or a program has ended.
    """
    notes = make_console(stderr=as_json)
    serving, default = _open(paths, logs, notes)
    files = ServingFolder((folder or default).expanduser().resolve())
    with ExitStack() as stack:
        stack.enter_context(files.lock())
        _check_address(host, port)
        stop = stack.enter_context(_signals())
        token = files.prepare(serving.namespace)
        routes = serving.start(files, stack, stop)
        if routes is None:
            return
        files.write_routes(routes)
        gateway = Gateway(files, host, port)
        stack.callback(gateway.program.stop)
        if not gateway.wait_until_ready(stop):
            return
        _announce(serving, files, f"{gateway.url}/v1", token, notes, as_json)
        with UsageDisplay(notes, serving.names) as display:
            while not stop.wait(POLL_SECONDS):
                serving.watch()
                gateway.fail_if_ended()
                usage = read_usage(gateway.operation_url)
                if usage is not None:
                    display.update(usage)
        kept = "".join(
            f", conversations are in {uri}" for uri in sorted({each.logs.uri for each in routes if each.logs})
        )
        notes.print(f"stopping; usage is in {files.ledger}{kept}", soft_wrap=True)


def _open(paths: Sequence[Path], logs: ConversationLogs | None, notes: Console) -> tuple[Serving, Path]:
    """Return what is served, and the default of the folder of serving.

    Raises:
        ManifestErrors, RunError: when it cannot be served.
    """
    runs = [path for path in paths if RunFolder(path).config.is_file()]
    for path in paths:
        if path.is_dir() and path not in runs and not manifest_files([path]):
            text = (
                f"{path} holds neither an exported run nor manifests (*.yaml); give the output folder of a job, or "
                "manifests"
            )
            raise RunError(ExitCode.CONFIGURATION_INVALID, text)
    if not runs:
        servers, remarks = plan_servers(paths, find_gpus(os.environ))
        for remark in remarks:
            notes.print(one_line(f"remark: {remark}"), soft_wrap=True)
        return EndpointServing(servers, logs, notes), manifest_files(paths)[0].parent / _FOLDER
    if len(paths) > 1:
        text = f"{runs[0]} is the folder of a run, which is served by itself; leave the others out"
        raise RunError(ExitCode.CONFIGURATION_INVALID, text)
    run = RunFolder(runs[0].expanduser().resolve())
    return RunServing(find_models(run), logs, notes), run.path / _FOLDER


def _check_address(host: str, port: int) -> None:
    """Find out that the gateway cannot listen on its address before vLLM takes minutes to start.

    Raises:
        RunError: CONFIGURATION_INVALID when it cannot.
    """
    try:
        listen(host, port).close()
    except ListenError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, str(error)) from None


def _announce(serving: Serving, files: ServingFolder, url: str, token: str, notes: Console, as_json: bool) -> None:
    if as_json:
        # print instead of the console, which would wrap and colour the line.
        print(json.dumps({"url": url, "key": token}), flush=True)
        return
    notes.print(f"address  {url}", soft_wrap=True)
    notes.print(f"key      {token}", soft_wrap=True)
    notes.print(f"models   {', '.join(serving.names)}", soft_wrap=True)
    notes.print(f"new key  {files.key_command(serving.namespace)}", soft_wrap=True)
    question = json.dumps({"model": serving.question_model, "messages": [{"role": "user", "content": "..."}]})
    notes.print(
        f"curl {url}/chat/completions -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' "
        f"-d '{question}'",
        soft_wrap=True,
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
