"""All rollout servers of a machine, and the versions of the policy that they hold."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rft_api.exact_json import parse_line
from rft_api.foreign.http import ForeignAnswerError
from rft_api.foreign.text import one_line
from rft_api.memory_servers import LOADED_ADAPTERS
from rft_api.scratch import scratch_folder
from rft_trainer.rollout_servers.command import ServerSettings
from rft_trainer.rollout_servers.process import NotLoaded, Rejected, RolloutServer, call, kill_processes_in

LOAD_SECONDS = 600.0
"""Seconds in which all servers have to load a version; they do it at the same time."""

log = logging.getLogger(__name__)


def server_folder() -> AbstractContextManager[Path]:
    """Yield a new folder for the sockets of this machine's servers and the versions of the policy, and remove it.

    Only this user can read it. Its path is short, because that of a socket has at most 108 characters. Folders of
    trainers that were killed are removed, and processes of their servers that live on are killed.
    """
    return scratch_folder("rft-vllm-", kill_processes_in)


def socket_of(folder: Path, number: int) -> Path:
    """Return where the server with a number is reached."""
    return folder / f"{number}.sock"


@dataclass(frozen=True)
class Version:
    """A version of the policy, in a folder that is never written to again."""

    name: str
    folder: Path
    is_adapter: bool
    """Whether it is an adapter, which is loaded beside the base model; else it is the whole weights."""
    is_temporary: bool
    """Whether the folder is removed when no server needs it any more."""


class RolloutServers:
    """The rollout servers of this machine; only its first process has them.

    Args:
        folder: where their sockets and logs are; see `server_folder`.
        settings: what each server is started with.
    """

    def __init__(self, folder: Path, settings: Sequence[ServerSettings]):
        self._versions: list[Version] = []
        """Those that every server holds, the current one last."""
        self._names: set[str] = set()
        self._unloaded: list[Version] = []
        """Those that no server holds any more, and whose files go with the next version."""
        # While a version is loaded, no server becomes reachable, so that each reachable one has all versions.
        self._lock = threading.Lock()
        self._servers = [
            RolloutServer(socket_of(folder, number), each, self._prepare) for number, each in enumerate(settings)
        ]

    def load(self, version: Version) -> None:
        """Load a version into all servers at the same time, and unload the oldest one; nobody may sample meanwhile.

        When it returns, every server that can be reached has loaded the version. A server that could not load it was
        killed, and is started again, unless it has rejected the version. A folder is removed one version after it was
        unloaded, when nothing can read it.
        """
        with self._lock:
            if self._versions and self._versions[-1].name == version.name:
                return
            # vLLM keys its cache by the name and the folder of an adapter, and would answer from the old one.
            assert version.name not in self._names, f"{version.name} was loaded before"
            self._names.add(version.name)
            oldest, deadline = self._oldest(version), time.monotonic() + LOAD_SECONDS
            with ThreadPoolExecutor(len(self._servers), "load") as threads:
                # Those that cannot be reached load all versions when they have started.
                reachable = [server for server in self._servers if server.is_reachable]
                list(threads.map(lambda server: _replace(server, oldest, version, deadline), reachable))
            self._versions = [*(each for each in self._versions if each is not oldest), version]
            for each in self._unloaded:
                shutil.rmtree(each.folder, ignore_errors=True)
            self._unloaded = [oldest] if oldest is not None and oldest.is_temporary else []

    def stop(self) -> None:
        """Kill all servers."""
        for server in self._servers:
            server.stop()

    def _oldest(self, version: Version) -> Version | None:
        """Return the version that gives way to another one, if any."""
        held = LOADED_ADAPTERS if version.is_adapter else 1
        return self._versions[0] if len(self._versions) >= held else None

    def _prepare(self, socket: Path, publish: Callable[[], None]) -> None:
        with self._lock:
            deadline = time.monotonic() + LOAD_SECONDS
            for version in self._versions:
                load(socket, version, deadline)
            publish()


def _replace(server: RolloutServer, oldest: Version | None, version: Version, deadline: float) -> None:
    """Load a version into a server, and unload the oldest one; kill the server when it does not."""
    try:
        load(server.socket, version, deadline)
        if oldest is not None and oldest.is_adapter:
            unload(server.socket, oldest, deadline)
    except Rejected as error:
        server.abandon(str(error))
    except NotLoaded as error:
        log.warning("rollout server %s %s; starting it again", server.socket.stem, error)
        server.kill()


def load(socket: Path, version: Version, deadline: float) -> None:
    """Load a version into the server behind a socket, until a moment of the monotonic clock.

    Raises:
        Rejected: when the version is wrong.
        NotLoaded: when the server has not acknowledged it; then its state is unknown, and it has to be started again.
    """
    if version.is_adapter:
        # A new name and a new path for each version: vLLM keys its prefix cache by both.
        content = {"lora_name": version.name, "lora_path": str(version.folder.absolute())}
        _request(socket, "/v1/load_lora_adapter", deadline, content)
        return
    _request(socket, "/pause?mode=keep", deadline)
    reload = {"method": "reload_weights", "kwargs": {"weights_path": str(version.folder.absolute())}}
    _request(socket, "/collective_rpc", deadline, reload)
    # Keys and values of the old weights would answer for the new ones. The status is 200 whether it succeeds or not.
    reset = _request(socket, "/reset_prefix_cache?reset_running_requests=true", deadline)
    if not (isinstance(reset, dict) and reset.get("success") is True):
        raise NotLoaded(f"has not emptied its cache: {one_line(str(reset))}")
    _request(socket, "/resume", deadline)


def unload(socket: Path, version: Version, deadline: float) -> None:
    """Make the server behind a socket forget the name of an adapter, of which no request is in flight.

    Raises:
        NotLoaded: when the server has not acknowledged it.
    """
    _request(socket, "/v1/unload_lora_adapter", deadline, {"lora_name": version.name})


def _request(socket: Path, path: str, deadline: float, content: Mapping[str, Any] | None = None) -> Any:
    """Send a POST request; return the JSON of its answer, or its text."""
    try:
        answer = call(socket, "POST", path, max(0.0, deadline - time.monotonic()), content)
    except ForeignAnswerError as error:
        raise NotLoaded(f"{error} ({path})") from error
    if answer.status != httpx.codes.OK:
        problem = f"answered {answer.status} to {path}: {one_line(answer.text())}"
        raise Rejected(problem) if answer.status == httpx.codes.BAD_REQUEST else NotLoaded(problem)
    try:
        return parse_line(answer.body)
    except ValueError:
        return answer.text()
