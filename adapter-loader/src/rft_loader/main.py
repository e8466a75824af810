"""The loader's command line: fetch a model once, follow a list of adapters, or plan the memory of a job."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rft_api.exit_codes import ExitCode
from rft_api.foreign.text import one_line
from rft_api.system_errors import NOT_WRITABLE, may_pass
from rft_api.termination import format_end
from rft_loader.fetch import fetch_model, fetch_newest_model
from rft_loader.follow import Follower, Settings
from rft_loader.memory import leave_verdict, plan_job
from rft_loader.problems import Problem
from rft_loader.source import Source
from rft_loader.sources import Sources
from rft_loader.status import serve_status

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command `fetch`, `follow` or `memory`; return the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Their lines for every request would hide ours, and show signed addresses.
    for name in ("httpx", "httpcore", "huggingface_hub", "botocore"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if options.command == "fetch":
        return _fetch(options.uri, options.to, fetch_newest_model if options.newest else fetch_model)
    if options.command == "memory":
        gpus = [(options.gpu_bytes, options.gpu_source)]
        if options.largest_gpu_bytes is not None:
            gpus.append((options.largest_gpu_bytes, options.largest_gpu_source))
        return _plan_memory(options.job, options.uri, gpus)
    return _follow(
        Settings(
            options.adapters,
            options.folder.absolute(),
            options.base,
            options.server,
            options.maximum_rank,
            options.new_server,
        ),
        options.host,
        options.port,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rft_loader", description="Fetches models and serves adapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch a model; ends with 12 when there is none")
    fetch.add_argument("--uri", required=True, help="hf://OWNER/NAME[@REVISION] or s3://BUCKET/KEY")
    fetch.add_argument("--to", required=True, type=Path, help="folder, which exists only when it is complete")
    fetch.add_argument("--newest", action="store_true", help="fetch a complete folder again if the model has changed")
    follow = commands.add_parser("follow", help="keep a vLLM server's adapters as a file says")
    follow.add_argument("--adapters", required=True, type=Path, help="the file")
    follow.add_argument("--folder", required=True, type=Path, help="for fetched adapters; the server sees it, too")
    follow.add_argument("--base", required=True, type=Path, help="folder of the base model")
    follow.add_argument("--server", required=True, help="the server's URL")
    follow.add_argument("--maximum-rank", required=True, type=int, help="the server's --max-lora-rank")
    follow.add_argument(
        "--new-server", action="store_true", help="the server starts now and reads no files yet: remove older versions"
    )
    follow.add_argument("--host", default="0.0.0.0", help="address to listen on (default: 0.0.0.0)")
    follow.add_argument("--port", required=True, type=int, help="for GET /adapters and GET /healthz")
    memory = commands.add_parser("memory", help="say whether a job fits its GPUs, from config.json of its model alone")
    memory.add_argument("--job", required=True, type=Path, help="the trainer's configuration")
    memory.add_argument("--uri", required=True, help="the model: hf://OWNER/NAME[@REVISION], s3://BUCKET/KEY or a path")
    memory.add_argument("--gpu-bytes", type=int, help="memory of a GPU, unless the configuration states it")
    memory.add_argument("--gpu-source", default="", help="where that is known from, or why it is not, for the message")
    memory.add_argument(
        "--largest-gpu-bytes", type=int, help="memory of the largest GPU, if --gpu-bytes is a smaller one"
    )
    memory.add_argument("--largest-gpu-source", default="", help="where that is known from, for the message")
    return parser


def _fetch(uri: str, target: Path, fetch: Callable[[str, Source, Path], None]) -> ExitCode:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(uri, Sources().open(uri), target)
    except Problem as problem:
        return _report(ExitCode.MODEL_INVALID if problem.permanent else ExitCode.STORAGE_UNREACHABLE, str(problem))
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            return _report(ExitCode.OUTPUT_FAILED, f"{target}: {error.strerror}: {NOT_WRITABLE[error.errno]}")
        return _report(ExitCode.STORAGE_UNREACHABLE if may_pass(error) else ExitCode.UNEXPECTED, f"{target}: {error}")
    return ExitCode.SUCCEEDED


def _plan_memory(job: Path, uri: str, gpus: list[tuple[int | None, str]]) -> ExitCode:
    try:
        verdict = plan_job(job, uri, gpus)
    except (OSError, ValueError) as error:
        return _report(ExitCode.CONFIGURATION_INVALID, f"{job}: {one_line(str(error))}")
    log.info("%s", verdict.message)
    leave_verdict(verdict)
    return ExitCode.SUCCEEDED


def _follow(settings: Settings, host: str, port: int) -> ExitCode:
    settings.folder.mkdir(parents=True, exist_ok=True)
    follower = Follower(settings)
    serve_status(host, port, follower.reports)
    follower.run()
    return ExitCode.SUCCEEDED


def _report(code: ExitCode, message: str) -> ExitCode:
    print(format_end(code, message), file=sys.stderr, flush=True)
    return code


def _end(number: int, frame: FrameType | None) -> None:
    # The process may end in the middle of a download: files on disk are either complete or marked as partial.
    os.write(sys.stderr.fileno(), format_end(ExitCode.INTERRUPTED, "the loader was told to end\n").encode())
    os._exit(ExitCode.INTERRUPTED)
