"""The folder of what is served on this machine: key, routes, ledger, logs, files, and models that have been fetched."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write, open_in_place, open_new
from rft_api.foreign.files import read_file
from rft_api.gateway_key import Key, is_token, make_token, secret_document, token_digest
from rft_api.gateway_routes import Route, RouteList

KEY_NAME = "local"
_LONGEST_TOKEN = 1000


class ServingFolder:
    """The files of serving."""

    def __init__(self, path: Path):
        self.path = path
        self.routes = path / "routes.json"
        self.keys = path / "keys"
        self.ledger = path / "ledger.db"
        self.spool = path / "spool"
        self.files = path / "files"
        self.adapters = path / "adapters"
        self.gateway_log = path / "gateway.log"
        self._token = path / "token"

    def server_log(self, name: str | None = None) -> Path:
        """Return the log of a server: of the only one, or of that of an endpoint."""
        return self.path / (f"vllm-{name}.log" if name else "vllm.log")

    def loader_log(self, name: str) -> Path:
        """Return the log of the loader of an endpoint's server."""
        return self.path / f"loader-{name}.log"

    def adapter_list(self, name: str) -> Path:
        """Return the list of the adapters of an endpoint's server."""
        return self.path / f"adapters-{name}.json"

    def model(self, name: str, address: str) -> Path:
        """Return the folder for the model of an endpoint; each address has a folder of its own."""
        return self.path / "models" / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the folder, and lock it, so that it is served once.

        Raises:
            RunError: OUTPUT_INVALID when it cannot be written, or is being served.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = open_in_place(self.path / ".lock")
        except OSError as error:
            text = f"{self.path} cannot be written: {error.strerror}; name another folder with --folder"
            raise RunError(ExitCode.OUTPUT_INVALID, text) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = f"{self.path} is being served already; stop that, or name another folder with --folder"
                raise RunError(ExitCode.OUTPUT_INVALID, text) from None
            yield

    def prepare(self, namespace: str) -> str:
        """Write the key, and return its token, which stays the same from one start to the next.

        Args:
            namespace: that of the models which it opens.
        """
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
        key = Key(name=KEY_NAME, namespace=namespace, digest=token_digest(token))
        atomic_write(self.keys / f"{KEY_NAME}.yaml", yaml.safe_dump(secret_document(key), sort_keys=False))
        return token

    def key_command(self, namespace: str) -> str:
        """Return the command that makes a key for somebody else.

        Args:
            namespace: that of the models which it opens.
        """
        return shlex.join(["rft", "keys", "create", "NAME", "--folder", str(self.keys), "--namespace", namespace])

    def write_routes(self, routes: Sequence[Route]) -> None:
        """Write the models and their servers for the gateway."""
        atomic_write(self.routes, RouteList(routes=list(routes)).model_dump_json(by_alias=True, indent=2) + "\n")
