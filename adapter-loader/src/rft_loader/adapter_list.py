"""Reads the list of adapters that the server should serve, from a file that is replaced when the list changes."""

from __future__ import annotations

import logging
from pathlib import Path

from rft_api.adapter_protocol import AdapterList, ListedAdapter
from rft_api.foreign.files import read_file
from rft_api.foreign.text import one_line

log = logging.getLogger(__name__)

_LARGEST_LIST = 2 << 20
"""Largest size of the list in bytes; it is a key of a ConfigMap, which holds 1 MiB."""


class AdapterFile:
    """The file with the list. While it cannot be read, the list that was read last stays valid."""

    def __init__(self, path: Path):
        self._path = path
        self._content: bytes | None = None
        self._problem = ""
        self.adapters: list[ListedAdapter] | None = None
        """The list that was read last; None until the file has been read once."""

    def refresh(self) -> bool:
        """Read the file again; return whether the list has changed."""
        try:
            content = read_file(self._path, _LARGEST_LIST)
            if content == self._content:
                return False
            adapters = AdapterList.model_validate_json(content).adapters
        except (OSError, ValueError) as error:  # pydantic's ValidationError is one
            self._warn_once(f"{self._path}: {one_line(str(error))}; going on with the list as it was")
            return False
        self._content, self._problem = content, ""
        changed, self.adapters = adapters != self.adapters, adapters
        if changed:
            log.info("the list names: %s", ", ".join(f"{item.name} ({item.uri})" for item in adapters) or "no adapters")
        return changed

    def _warn_once(self, problem: str) -> None:
        # The file is read every second: the same problem would fill the log.
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
