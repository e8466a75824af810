"""What is at an address: its files, and copying them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rft_loader.problems import Problem


@dataclass(frozen=True)
class SourceFile:
    """A file at an address."""

    name: str
    """Its path, relative to the address."""
    size: int
    """Bytes."""
    version: str
    """Changes whenever the content does."""


class Source(Protocol):
    """What is at an address."""

    def files(self) -> list[SourceFile]:
        """Its files, by name.

        Raises:
            Problem: when they cannot be listed, or there are none.
        """

    def fetch(self, name: str, folder: Path) -> None:
        """Copies one of the files that were listed into a folder.

        Raises:
            Problem: when it cannot be read.
        """


def revision_of(files: Iterable[SourceFile]) -> str:
    """A name for exactly this content."""
    listed = [[file.name, file.size, file.version] for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def fetch_files(source: Source, files: Iterable[SourceFile], folder: Path) -> None:
    """Copies files into a folder; those that are there with the right size stay.

    Raises:
        Problem: when one cannot be read, or has changed on the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = folder / file.name
        if path.is_file() and path.stat().st_size == file.size:
            continue
        source.fetch(file.name, folder)
        if path.stat().st_size != file.size:
            raise Problem(f"{file.name} changed while it was fetched", permanent=False)
