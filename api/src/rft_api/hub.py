"""Reads models and datasets of the Hugging Face hub; HF_TOKEN opens private ones. Needs the extra `hub`."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils.tqdm import disable_progress_bars, tqdm

from rft_api.dataset_files import dataset_files
from rft_api.hub_address import DATASETS, SCHEME, SHAPE, DatasetAddress, HubAddress
from rft_api.progress import OnBytes, Report, count_bytes, ignore_bytes, ignore_report
from rft_api.storage_error import StorageError, check_stored_name

log = logging.getLogger(__name__)

PAUSES = (1.0, 3.0, 9.0)
"""Seconds between tries while the hub does not answer."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubFile:
    """A file of a model."""

    name: str
    """Its path in the repository."""
    size: int
    """Bytes."""
    version: str
    """Changes whenever the content does."""


class HubModel:
    """A model on the hub, at one commit: that which its revision had when it was first asked for."""

    kind = "model"
    """What the hub calls such a repository."""

    def __init__(self, address: HubAddress):
        self._address = address
        self._revision = address.revision
        disable_progress_bars()

    def files(self) -> list[HubFile]:
        """Return its files, by name.

        Raises:
            StorageError: when there is no such model, it may not be read, or the hub does not answer.
        """
        info = self._tried(self._info)
        for item in info.siblings or []:
            check_stored_name(self._uri(), item.rfilename)
        self._revision = info.sha
        files = [HubFile(item.rfilename, item.size or 0, item.blob_id or "") for item in info.siblings or []]
        return sorted(files, key=lambda file: file.name)

    def commit(self) -> str:
        """Return the commit, as 40 hexadecimal digits.

        Raises:
            StorageError: as `files`.
        """
        if not re.fullmatch(r"[0-9a-f]{40}", self._revision or ""):
            self.files()
        return self._revision or ""

    def fetch(self, name: str, folder: Path | None = None, on_bytes: OnBytes = ignore_bytes) -> Path:
        """Copy a file into a folder, or into this machine's cache of the hub, where it stays as it is if it is there.

        Args:
            name: the file.
            folder: where it goes; the cache when absent.
            on_bytes: called with the number of bytes that have come since the last call.

        Raises:
            StorageError: when it cannot be read.
            OSError: when there is no room for it.
        """

        class Counter(tqdm):
            def update(self, n: float | None = 1) -> bool | None:
                on_bytes(int(n or 0))
                shown: bool | None = super().update(n)
                return shown

        def download() -> str:
            place: dict[str, Any] = {} if folder is None else {"local_dir": folder}
            repository = self._address.repository
            path: str = hf_hub_download(
                repository, name, revision=self._revision, repo_type=self.kind, tqdm_class=Counter, **place
            )
            return path

        return Path(self._tried(download))

    def cached_folder(self) -> Path | None:
        """Return the folder of this revision in this machine's cache, whole or not; the hub is not asked."""
        try:
            return Path(snapshot_download(self._address.repository, revision=self._revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None

    def _uri(self) -> str:
        return str(self._address)

    def _info(self) -> ModelInfo | DatasetInfo:
        return HfApi().model_info(self._address.repository, revision=self._revision, files_metadata=True, timeout=30)

    def _tried(self, call: Callable[[], Result]) -> Result:
        for pause in (*PAUSES, None):
            try:
                return call()
            except Exception as error:
                problem = self._explained(error)
                if problem is None:
                    raise
                if problem.permanent or pause is None or isinstance(error, OfflineModeIsEnabled):
                    raise problem from error
                log.warning("%s; trying again in %.0f s", problem, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _explained(self, error: Exception) -> StorageError | None:
        """Return the error in words, with what to do; None when it is not about the hub."""
        uri = self._uri()
        if isinstance(error, GatedRepoError):
            return StorageError(
                f"{uri}: the {self.kind} is gated; accept its terms on the hub and set HF_TOKEN (in a cluster, the key "
                f"HF_TOKEN of the Secret in spec.credentials)"
            )
        if isinstance(error, RepositoryNotFoundError):
            return StorageError(f"{uri}: the hub has no such {self.kind}, or HF_TOKEN may not read it")
        if isinstance(error, RevisionNotFoundError):
            return StorageError(f"{uri}: the {self.kind} has no such revision")
        if isinstance(error, HFValidationError):
            return StorageError(f"{uri}: must look like {SHAPE}")
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return StorageError(f"{uri}: {_without_queries(error)}")
        if isinstance(error, HfHubHTTPError):
            return self._refused(error)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return None
        if isinstance(error, (httpx.HTTPError, OSError)):
            text = _without_queries(error.__cause__ or error)
            return StorageError(f"{uri}: the hub cannot be reached: {text}", permanent=False)
        return None

    def _refused(self, error: HfHubHTTPError) -> StorageError:
        uri, status = self._uri(), error.response.status_code
        if status == 401:
            return StorageError(
                f"{uri}: the hub does not know HF_TOKEN (HTTP 401); it may have expired: make a new one on the hub"
            )
        if status == 403:
            return StorageError(f"{uri}: HF_TOKEN may not read it (HTTP 403); give the token that permission")
        text = f"{uri}: the hub answers HTTP {status}: {error.server_message or ''}"
        return StorageError(text.rstrip(": "), permanent=status in (400, 404))


class HubDataset(HubModel):
    """A dataset on the hub, at one commit."""

    kind = "dataset"

    def _uri(self) -> str:
        return super()._uri().replace(SCHEME, DATASETS, 1)

    def _info(self) -> ModelInfo | DatasetInfo:
        return HfApi().dataset_info(self._address.repository, revision=self._revision, files_metadata=True, timeout=30)


def fetch_dataset(address: DatasetAddress, folder: Path, split: str | None, report: Report = ignore_report) -> Path:
    """Copy the files of one split of a dataset on the hub into a folder; return the path of the copy.

    Args:
        address: the dataset, or a file or folder of it.
        folder: the folder for the copies; a file that is there, and has not changed on the hub, is not copied again.
        split: the split, if the address has several.
        report: called with the number of bytes that have been copied, and the number of all bytes.

    Raises:
        StorageError: when there is no such dataset or split, it may not be read, or the hub does not answer.
        OSError: when there is no room for it.
    """
    hub = HubDataset(address.repository)
    sizes = {file.name: file.size for file in hub.files()}
    if address.path in sizes:
        chosen = [address.path]
    else:
        prefix = f"{address.path}/" if address.path else ""
        below = [name.removeprefix(prefix) for name in sizes if name.startswith(prefix)]
        if not below:
            raise StorageError(f"{address}: nothing is stored there")
        try:
            chosen = [prefix + name for name in dataset_files(below, split)]
        except ValueError as error:
            raise StorageError(f"{address}: {error}") from None
    on_bytes = count_bytes(sum(sizes[name] for name in chosen), report)
    for name in chosen:
        hub.fetch(name, folder, on_bytes)
    return folder / address.path


def _without_queries(error: BaseException) -> str:
    """Return an error's text in one line, without the signatures that addresses of files carry."""
    return re.sub(r"\?\S*", "", " ".join(str(error).split())) or type(error).__name__
