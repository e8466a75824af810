"""Lists the files at an address and copies them to this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rft_api.files import partial_path
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
    """An address that files can be listed at and copied from."""

    def files(self) -> list[SourceFile]:
        """Return the files at the address.

        Raises:
            Problem: when they cannot be listed, or there are none.
        """

    def fetch(self, file: SourceFile, folder: Path) -> None:
        """Copy one of the files that were listed into a folder.

        Raises:
            Problem: when it cannot be read.
        """


def revision_of(files: Iterable[SourceFile]) -> str:
    """Return a name for the content of these files; it changes whenever a file changes."""
    listed = [[file.name, file.size, file.version] for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def fetch_files(source: Source, files: Iterable[SourceFile], folder: Path) -> None:
    """Copy files into a folder; do not copy again those that it already holds with the right size.

    Raises:
        Problem: when a file cannot be read, or has changed while it was copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = folder / file.name
        if path.is_file() and path.stat().st_size == file.size:
            continue
        source.fetch(file, folder)
        if path.stat().st_size != file.size:
            raise Problem(f"{file.name} changed while it was fetched", permanent=False)


def remove_other_partials(partial: Path, pattern: str) -> None:
    """Remove partial downloads of other revisions.

    Args:
        partial: the partial download that stays.
        pattern: a pattern of the names that downloads in its folder have when they are complete.
    """
    for other in partial.parent.glob(partial_path(Path(pattern)).name):
        if other != partial:
            shutil.rmtree(other)
