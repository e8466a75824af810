"""Who asks: finds the key of a token; and the folder of key documents, for a gateway without a cluster."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rft_api.gateway_key import Key, Limits, is_token, parse_secret, token_digest
from rft_api.gateway_key_files import KeyFile, key_paths, merge_key_files, read_key_file

__all__ = ["Key", "KeyFolder", "KeyRing", "Limits", "opens", "parse_secret"]

WATCH_SECONDS = 1.0
"""Seconds between two looks at the folder: a key that is revoked opens nothing after this time."""
_SETTLING_SECONDS = 2.0
"""A file that was written so shortly before it was read is read again: clocks of file systems are coarse, so that it
may change once more without a new time."""
_OF_NO_KEY = "0" * 64

_log = logging.getLogger(__name__)

_Signature = tuple[int, int, int, int]


def opens(key: Key, model: str) -> bool:
    """Return whether a key opens a model of its namespace."""
    return not key.models or model in key.models


@dataclass(frozen=True)
class _Reading:
    """A file as it was read; without a signature it has to be read again."""

    signature: _Signature | None
    file: KeyFile


class KeyRing:
    """The keys by their digests. A source, a `KeyFolder` or a cluster, replaces all of them at once."""

    def __init__(self, clock: Callable[[], float] = time.time):
        """Begin without keys.

        Args:
            clock: returns the seconds since 1970, for the end dates of keys.
        """
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._errors: list[str] = []
        self.is_complete = False
        """Whether the source has stated the keys; before, nobody can say that a token is wrong."""

    @property
    def keys(self) -> list[Key]:
        """The keys, also those that have expired."""
        return list(self._keys.values())

    @property
    def errors(self) -> list[str]:
        """A sentence for each document that opens nothing; it names the document and the field."""
        return list(self._errors)

    def find(self, token: str) -> Key | None:
        """Return the key of a token; None when it has none, or one that has expired.

        What is compared are digests. The time that this takes depends on no token that is valid.
        """
        if not is_token(token):
            return None
        digest = token_digest(token)
        key = self._keys.get(digest)
        is_same = hmac.compare_digest(key.digest if key else _OF_NO_KEY, digest)
        if key is None or not is_same:
            return None
        if key.expires is not None and datetime.fromtimestamp(self._clock(), UTC) >= key.expires:
            return None
        return key

    def replace(self, keys: Iterable[Key], errors: Iterable[str]) -> None:
        """Replace all keys at once, and log the errors that are new."""
        before, self._errors = set(self._errors), list(errors)
        for error in self._errors:
            if error not in before:
                _log.warning("%s", error)
        self._keys = {key.digest: key for key in keys}
        self.is_complete = True


class KeyFolder:
    """A folder of key documents.

    A document that is wrong opens nothing and leaves the others as they are. When the folder itself cannot be read, no
    key opens anything, because nobody can say which were revoked.
    """

    def __init__(self, folder: Path, ring: KeyRing):
        """Read the folder.

        Args:
            folder: the folder.
            ring: gets its keys.

        Raises:
            OSError: when the folder cannot be read.
        """
        self._folder = folder
        self._ring = ring
        self._readings: dict[Path, _Reading] = {}
        self._read()

    def refresh(self) -> None:
        """Read what has changed in the folder."""
        try:
            self._read()
        except OSError as error:
            self._close(error.strerror or str(error))

    async def watch(self) -> None:
        """Refresh until the task is cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # a watch that has ended would keep revoked keys open
                _log.exception("keys could not be read")
                self._close(type(error).__name__)

    def _read(self) -> None:
        readings = {path: self._reading(path) for path in key_paths(self._folder)}
        if self._readings and readings == self._readings:
            return
        self._readings = readings
        self._ring.replace(*merge_key_files(reading.file for reading in self._readings.values()))

    def _reading(self, path: Path) -> _Reading:
        before = _signature(path)
        earlier = self._readings.get(path)
        if earlier is not None and before is not None and earlier.signature == before:
            return earlier
        now = time.time()
        return _Reading(before if _is_settled(before, now) else None, read_key_file(path))

    def _close(self, cause: str) -> None:
        self._readings = {}
        self._ring.replace([], [f"{self._folder}: no key opens anything: {cause}"])


def _signature(path: Path) -> _Signature | None:
    """Return what changes when a file changes; None when it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(signature: _Signature | None, now: float) -> bool:
    """Return whether a file was last changed long enough before a time; the kernel sets the time of its last change."""
    return signature is not None and signature[3] / 1e9 < now - _SETTLING_SECONDS
