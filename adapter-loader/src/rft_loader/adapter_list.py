"""The list of adapters that the server should serve: a file that is replaced when it changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from rft_api.model import Model

log = logging.getLogger(__name__)


class WantedAdapter(Model):
    """An adapter of the list."""

    name: str = Field(min_length=1)
    """The name that it answers to."""
    uri: str = Field(min_length=1)
    """Its address: `s3://`, `hf://`, or a folder."""


class _AdapterList(Model):
    adapters: list[WantedAdapter]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len({adapter.name for adapter in self.adapters}) < len(self.adapters):
            raise ValueError("each name must occur once")
        return self


class AdapterList:
    """Reads the file; while it cannot be read, what it said before counts."""

    def __init__(self, path: Path):
        self._path = path
        self._content: bytes | None = None
        self._problem = ""
        self.adapters: list[WantedAdapter] | None = None
        """None as long as the file has never been read."""

    def refresh(self) -> bool:
        """Reads the file again; returns whether the list has changed."""
        try:
            content = self._path.read_bytes()
            if content == self._content:
                return False
            adapters = _AdapterList.model_validate_json(content).adapters
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
