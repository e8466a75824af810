"""Keeps a copy of the run's folder in an object store: everything is there when a pod is gone."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import PARTIAL_SUFFIX
from rft_api.progress import Report, count_bytes, ignore_report
from rft_api.run_folder import CHECKPOINT_MARKER, RunFolder
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError

log = logging.getLogger(__name__)

PERIOD_SECONDS = 5.0
"""Between two looks at the folder while the run goes on."""
FINAL_SECONDS = 600.0
"""How long the store may be away at the end before the run gives up and is retried."""

State = tuple[int, int]
"""A file's size in bytes and its time of change in nanoseconds."""


@dataclass(frozen=True)
class Sync:
    """What makes the copy equal to the folder, in this order."""

    upload: list[str]
    delete: list[str]


def plan_sync(files: Mapping[str, State], copied: Mapping[str, State]) -> Sync:
    """Compare the folder's files with those that were copied.

    What says that something is complete goes last when it appears and first when it goes, so that the copy never says
    so of what is not. Among these the order is that of their writing: an older checkpoint stops being one to go on from
    only after a newer one has become it. Only what was copied from here is removed from the store.
    """
    changed = [name for name in files if copied.get(name) != files[name]]
    gone = [name for name in copied if name not in files]
    return Sync(
        upload=sorted(changed, key=lambda name: (_says_complete(name), files[name][1], name)),
        delete=sorted(gone, key=lambda name: (not _says_complete(name), name)),
    )


def _says_complete(name: str) -> int:
    if name.endswith(f"/{CHECKPOINT_MARKER}"):
        return 1
    return 2 if name == "summary.json" else 0


class Mirror:
    """Copies a folder to an address in the background.

    Args:
        folder: the run's folder on this machine.
        uri: where its copy is kept.
    """

    def __init__(self, folder: RunFolder, uri: str):
        self._folder = folder
        self._uri = uri.rstrip("/")
        self._store = ObjectStore()
        self._copied: dict[str, State] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def fetch(self, report: Report = ignore_report) -> None:
        """Bring what an earlier start of the run has left: all that going on needs.

        `report` is called with the bytes that have been copied, and all that are to be copied.

        Raises:
            RunError: OUTPUT_INVALID when the address cannot be used, STORAGE_UNREACHABLE when the store does not
                answer.
        """
        # The store has the truth: what an earlier process left here may be of another time.
        shutil.rmtree(self._folder.path, ignore_errors=True)
        try:
            stored = {item.name: item.size for item in self._store.objects(self._uri)}
            complete = {_checkpoint(name) for name in stored if name.endswith(f"/{CHECKPOINT_MARKER}")}
            # Rollouts are for people: no run reads them again.
            wanted = {
                name for name in stored if not name.startswith("rollouts/") and _checkpoint(name) in {None, *complete}
            }
            total = sum(stored[name] for name in wanted)
            self._store.download(self._uri, self._folder.path, sorted(wanted), count_bytes(total, report))
        except StorageError as error:
            code = ExitCode.OUTPUT_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE
            raise RunError(code, str(error)) from error
        self._copied = {name: state for name, state in self._files().items() if name in wanted}
        # Checkpoints that a killed run left without their marker are counted as copied, so that they go.
        self._copied |= {name: (0, 0) for name in stored if _checkpoint(name) and name not in wanted}

    def start(self) -> None:
        """Begin to follow the folder.

        Raises:
            RunError: OUTPUT_INVALID when the store takes nothing: hours of training would be lost at their end.
        """
        try:
            self._sync()
        except StorageError as error:
            if error.permanent:
                raise RunError(ExitCode.OUTPUT_INVALID, str(error)) from error
            log.warning("copying to %s: %s", self._uri, error)
        self._thread.start()

    def finish(self, report: Report = ignore_report) -> None:
        """Copy what is left; `report` is as for `fetch`.

        Raises:
            RunError: OUTPUT_FAILED when the store stays away.
        """
        self._ended.set()
        self._thread.join()
        deadline = time.monotonic() + FINAL_SECONDS
        while True:
            try:
                return self._sync(report)
            except (StorageError, OSError) as error:
                if time.monotonic() > deadline or (isinstance(error, StorageError) and error.permanent):
                    raise RunError(ExitCode.OUTPUT_FAILED, str(error)) from error
                log.warning("%s; trying again", error)
                time.sleep(PERIOD_SECONDS)

    def _follow(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            try:
                self._sync()
            except (StorageError, OSError) as error:
                # A file that went away meanwhile, or a store that is away: the next look will tell.
                log.warning("copying to %s: %s", self._uri, error)

    def _sync(self, report: Report = ignore_report) -> None:
        files = self._files()
        plan = plan_sync(files, self._copied)
        count = count_bytes(sum(files[name][0] for name in plan.upload), report)
        for name in plan.upload:
            self._store.upload(self._folder.path / name, f"{self._uri}/{name}", count)
            self._copied[name] = files[name]
        for name in plan.delete:
            self._store.delete(f"{self._uri}/{name}")
            del self._copied[name]

    def _files(self) -> dict[str, State]:
        found = {}
        for path in self._folder.path.rglob("*"):
            name = path.relative_to(self._folder.path).as_posix()
            # Half-written: transformers' own names for a checkpoint in the making, and ours for any file or folder.
            unfinished = name.startswith("checkpoints/checkpoint-") or PARTIAL_SUFFIX in name or name.startswith(".")
            if path.is_file() and not unfinished:
                status = path.stat()
                found[name] = (status.st_size, status.st_mtime_ns)
        return found


def _checkpoint(name: str) -> str | None:
    """Return the checkpoint's folder that a file is in, if it is in one."""
    parts = name.split("/")
    return parts[1] if parts[0] == "checkpoints" and len(parts) > 2 else None
