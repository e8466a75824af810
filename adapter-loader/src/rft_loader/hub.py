"""Models on the Hugging Face hub (`hf://OWNER/NAME[@REVISION]`); HF_TOKEN opens private ones."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from rft_loader.problems import Problem
from rft_loader.source import SourceFile

log = logging.getLogger(__name__)

PAUSES = (1.0, 3.0, 9.0)
"""Seconds between tries while the hub does not answer."""
_REFUSED = {400, 401, 403, 404}

Result = TypeVar("Result")


class HubModel:
    """A model on the hub, of the commit that the first listing found."""

    def __init__(self, repository: str, revision: str | None):
        self._repository = repository
        self._revision = revision
        self._uri = f"hf://{repository}" + (f"@{revision}" if revision else "")
        disable_progress_bars()

    def files(self) -> list[SourceFile]:
        """See `Source`."""
        info = self._tried(
            lambda: HfApi().model_info(self._repository, revision=self._revision, files_metadata=True, timeout=30)
        )
        self._revision = info.sha
        files = [SourceFile(item.rfilename, item.size or 0, item.blob_id or "") for item in info.siblings or []]
        return sorted(files, key=lambda file: file.name)

    def fetch(self, name: str, folder: Path) -> None:
        """See `Source`."""
        self._tried(lambda: hf_hub_download(self._repository, name, revision=self._revision, local_dir=folder))

    def _tried(self, call: Callable[[], Result]) -> Result:
        for pause in (*PAUSES, None):
            try:
                return call()
            except Exception as error:
                problem = self._problem(error)
                if problem is None:
                    raise
                if problem.permanent or pause is None:
                    raise problem from error
                log.warning("%s; trying again in %.0f s", problem, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _problem(self, error: Exception) -> Problem | None:
        """The error in words; none when it is not about the hub."""
        if isinstance(error, GatedRepoError):
            return Problem(f"{self._uri}: the model is gated; accept its terms on the hub and set HF_TOKEN")
        if isinstance(error, RepositoryNotFoundError):
            return Problem(f"{self._uri}: the hub has no such model, or HF_TOKEN may not read it")
        if isinstance(error, RevisionNotFoundError):
            return Problem(f"{self._uri}: the model has no such revision")
        if isinstance(error, HFValidationError):
            return Problem(f"{self._uri}: must look like hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return Problem(f"{self._uri}: {_without_queries(error)}")
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            text = f"{self._uri}: the hub answers HTTP {status}: {error.server_message or ''}"
            return Problem(text.rstrip(": "), status in _REFUSED)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return None
        if isinstance(error, (httpx.HTTPError, OSError)):
            text = _without_queries(error.__cause__ or error)
            return Problem(f"{self._uri}: the hub cannot be reached: {text}", permanent=False)
        return None


def parse_hub_address(uri: str) -> HubModel:
    """The model that an address names.

    Raises:
        Problem: when it names none.
    """
    match = re.fullmatch(r"hf://([^/@\s]+/[^/@\s]+)(?:@(\S+))?", uri)
    if match is None:
        raise Problem(f"{uri}: must look like hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return HubModel(match.group(1), match.group(2))


def _without_queries(error: BaseException) -> str:
    """An error's text in one line, without the signatures that addresses of files carry."""
    return re.sub(r"\?\S*", "", " ".join(str(error).split())) or type(error).__name__
