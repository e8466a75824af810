"""The sources of models and adapters: object stores, the Hugging Face hub, and mounted folders."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from rft_api.hub import HubModel
from rft_api.hub_address import SHAPE, parse_hub_address
from rft_api.storage import ObjectStore, StoredObject
from rft_loader.problems import Problem, storage_problems
from rft_loader.source import Source, SourceFile


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
            paths = sorted(path for path in self.path.iterdir() if path.is_file())
            stats = [(path.name, path.stat()) for path in paths]
        except FileNotFoundError as error:
            raise Problem(f"{self.path}: there is no such folder") from error
        except OSError as error:
            raise Problem(f"{self.path}: {error.strerror}", permanent=False) from error
        return [SourceFile(name, stat.st_size, str(stat.st_mtime_ns)) for name, stat in stats]

    def fetch(self, file: SourceFile, folder: Path) -> None:
        """See `Source`."""
        shutil.copyfile(self.path / file.name, folder / file.name)


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
