"""Writes objects of logs to S3, with the credentials of tenants or of the environment, or to folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from rft_api.conversation_logs import CREDENTIALS_LABEL
from rft_api.files import atomic_write
from rft_api.storage_error import StorageError
from rft_gateway.logs.spool import Destination

_SCHEME = "s3://"

Variables = Mapping[str, str]
"""AWS_ACCESS_KEY_ID and so on."""


class Stores:
    """The stores of all destinations. Objects are written in several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._credentials: Mapping[tuple[str, str], Variables] = {}
        self._stores: dict[tuple[str, str] | None, Any] = {}

    def set_credentials(self, credentials: Mapping[tuple[str, str], Variables]) -> None:
        """Replace all credentials, by namespace and name of their Secrets."""
        with self._lock:
            earlier, self._credentials = self._credentials, credentials
            for name in [name for name in self._stores if name and credentials.get(name) != earlier.get(name)]:
                del self._stores[name]

    def put(self, destination: Destination, name: str, content: bytes) -> None:
        """Write an object below the address of a destination; one that is there is replaced.

        Raises:
            StorageError: when it cannot be written.
        """
        if destination.uri.startswith(_SCHEME):
            self._store(destination).put(f"{destination.uri.rstrip('/')}/{name}", content)
            return
        try:
            atomic_write(Path(destination.uri) / name, content, durable=True)
        except OSError as error:
            raise StorageError(f"cannot write {error.filename or destination.uri}: {error.strerror}") from error

    def _store(self, destination: Destination) -> Any:
        secret = (destination.namespace, destination.secret) if destination.secret else None
        with self._lock:
            variables = self._credentials.get(secret) if secret else None
            if secret and variables is None:
                raise StorageError(
                    f"cannot write {destination.uri}: there is no Secret {destination.secret} in namespace "
                    f"{destination.namespace} with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the label "
                    f'{CREDENTIALS_LABEL}: "true"'
                )
            if secret not in self._stores:
                # Slow to import, and needed by few gateways.
                from rft_api.storage import ObjectStore

                self._stores[secret] = ObjectStore(variables, attempts=1)  # what fails is tried again later
            return self._stores[secret]
