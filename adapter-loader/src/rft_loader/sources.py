"""The sources of models and adapters: object stores, the Hugging Face hub, and mounted folders."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from rft_api.files import open_new
from rft_api.foreign.files import open_file
from rft_api.hub import HubModel
from rft_api.hub_address import SHAPE, parse_hub_address
from rft_api.storage import ObjectStore, StoredObject
from rft_loader.problems import Problem, storage_problems
from rft_loader.source import Source, SourceFile

MAXIMUM_FILES = 10_000
"""Largest number of files in a mounted folder; a model has some hundred."""


class StoredFolder:
    """Objects below an address of an object store."""

    def __init__(self, uri: str, store: ObjectStore):
        self._uri = uri
        self._store = store

    def files(self) -> list[SourceFile]:
        """See `Source`."""
        with storage_problems():
            objects = self._store.objects(self._uri)
        if not objects:
            raise Problem(f"{self._uri}: nothing is stored there")
        return [SourceFile(item.name, item.size, item.etag) for item in objects]

    def fetch(self, file: SourceFile, folder: Path) -> None:
        """See `Source`."""
        with storage_problems():
            self._store.download(self._uri, folder, [StoredObject(file.name, file.size, file.version)])


class HubFolder:
    """The files of a model on the Hugging Face hub."""

    def __init__(self, model: HubModel):
        self._model = model

    def files(self) -> list[SourceFile]:
        """See `Source`."""
        with storage_problems():
            return [SourceFile(file.name, file.size, file.version) for file in self._model.files()]

    def fetch(self, file: SourceFile, folder: Path) -> None:
        """See `Source`."""
        with storage_problems():
            self._model.fetch(file.name, folder)


class MountedFolder:
    """A folder of this machine."""

    def __init__(self, path: Path):
        self.path = path

    def files(self) -> list[SourceFile]:
        """See `Source`."""
        try:
            names = list(itertools.islice(self.path.iterdir(), MAXIMUM_FILES + 1))
            if len(names) > MAXIMUM_FILES:
                raise Problem(f"{self.path}: holds more than {MAXIMUM_FILES:,} files; name the folder of the adapter")
            paths = sorted(path for path in names if path.is_file())
            stats = [(path.name, path.stat()) for path in paths]
        except FileNotFoundError as error:
            raise Problem(f"{self.path}: there is no such folder") from error
        except OSError as error:
            raise Problem(f"{self.path}: {error.strerror}", permanent=False) from error
        return [_file(name, stat) for name, stat in stats]

    def fetch(self, file: SourceFile, folder: Path) -> None:
        """See `Source`. Holes stay holes: a file that costs its owner nothing costs nothing here either."""
        path = self.path / file.name
        try:
            with open_file(path) as source, open_new(folder / file.name) as target:
                # What counts is the file that has been opened: whoever may write to the volume may change its links.
                opened = Path(f"/proc/self/fd/{source.fileno()}").readlink()
                if not opened.is_relative_to(_volume_of(self.path).resolve()):
                    raise Problem(f"{path}: is a link that leads out of its volume; copy the file itself there")
                _copy(source.fileno(), target.fileno(), file.size)
                if _file(file.name, os.fstat(source.fileno())) != file:
                    (folder / file.name).unlink()
                    raise Problem(f"{file.name} changed while it was copied", permanent=False)
        except OSError as error:
            raise Problem(f"{path}: {error.strerror}", permanent=False) from error


def _file(name: str, stat: os.stat_result) -> SourceFile:
    return SourceFile(name, stat.st_size, str(stat.st_mtime_ns))


def _copy(source: int, target: int, size: int) -> None:
    """Copy the first bytes of an open file to another one without holding them in memory, and leave its holes out.

    The copy has its size at the end only. One that broke off is shorter, so that `fetch_files` copies it again.

    Raises:
        OSError: when one of them cannot be read or written.
    """
    for start, end in _data(source, size):
        os.lseek(target, start, os.SEEK_SET)
        while start < end and (count := os.sendfile(target, source, start, end - start)):
            start += count
    os.truncate(target, size)


def _data(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the first `size` bytes of an open file have data: the start and the end of each part."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is none behind this place
                return
            raise
        if start >= size:
            return
        end = min(os.lseek(file, start, os.SEEK_HOLE), size)
        yield start, end


def _volume_of(path: Path) -> Path:
    """Return the place at which the volume of a path is mounted. The path's own links are not followed."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.is_mount() and not parent.is_symlink())


class Sources:
    """Opens addresses. All addresses of the object store share one client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._store: ObjectStore | None = None

    def open(self, uri: str) -> Source:
        """Return the source for an address, without a request to it.

        Raises:
            Problem: when the address has no valid form.
        """
        scheme, separator, _ = uri.partition("://")
        if not separator:
            return MountedFolder(Path(uri))
        if scheme == "s3":
            return StoredFolder(uri, self._object_store())
        if scheme == "hf":
            address = parse_hub_address(uri)
            if address is None:
                raise Problem(f"{uri}: must look like {SHAPE}")
            return HubFolder(HubModel(address))
        raise Problem(f"{uri}: {scheme}:// cannot be fetched; use s3:// or hf://")

    def _object_store(self) -> ObjectStore:
        # Creating a client is not thread-safe, but using one is.
        with self._lock:
            if self._store is None:
                try:
                    self._store = ObjectStore()
                except ValueError as error:
                    raise Problem(f"the object store's settings: {error}") from error
            return self._store
