"""The list of adapters that the server should serve: a file that is replaced when it changes."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from rft_api.adapter_protocol import AdapterList, ListedAdapter

log = logging.getLogger(__name__)


class AdapterFile:
    """Reads the file; while it cannot be read, what it said before counts."""

    def __init__(self, path: Path):
        self._path = path
        self._content: bytes | None = None
        self._problem = ""
        self.adapters: list[ListedAdapter] | None = None
        """None as long as the file has never been read."""

    def refresh(self) -> bool:
        """Reads the file again; returns whether the list has changed."""
        try:
            content = self._path.read_bytes()
            if content == self._content:
                return False
            adapters = AdapterList.model_validate_json(content).adapters
        except (OSError, ValidationError) as error:
            self._tell(f"{self._path}: {' '.join(str(error).split())}; going on with the list as it was")
            return False
        self._content, self._problem = content, ""
        changed, self.adapters = adapters != self.adapters, adapters
        if changed:
            log.info("wanted: %s", ", ".join(f"{item.name} ({item.uri})" for item in adapters) or "no adapters")
        return changed

    def _tell(self, problem: str) -> None:
        # The file is read every second.
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
