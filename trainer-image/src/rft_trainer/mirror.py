"""Keeps a copy of the run's folder in an object store, where it outlives the pod."""

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
"""Seconds between two comparisons of the folder with its copy while the run goes on."""
FINAL_SECONDS = 600.0
"""Seconds that the store may be unreachable at the end before the run fails and is retried."""

State = tuple[int, int]
"""A file's size in bytes and its modification time in nanoseconds."""


@dataclass(frozen=True)
class Sync:
    """The changes that make the copy equal to the folder, in their order."""

    upload: list[str]
    delete: list[str]


def plan_sync(files: Mapping[str, State], copied: Mapping[str, State]) -> Sync:
    """Compare the files of the folder with those of the copy; return the changes that the copy needs.

    Files that mark something as complete are uploaded last and deleted first, so that the copy never contains the mark
    of something incomplete. They are uploaded in the order in which they were written: an older checkpoint becomes not
    resumable only after a newer one is complete. Only files of this mirror are deleted from the store.
    """
    changed = [name for name in files if copied.get(name) != files[name]]
    deleted = [name for name in copied if name not in files]
    return Sync(
        upload=sorted(changed, key=lambda name: (_mark_level(name), files[name][1], name)),
        delete=sorted(deleted, key=lambda name: (not _mark_level(name), name)),
    )


def _mark_level(name: str) -> int:
    """Return 0 for ordinary files, 1 for the marker of a complete checkpoint, 2 for the summary of a complete run."""
    if name.endswith(f"/{CHECKPOINT_MARKER}"):
        return 1
    return 2 if name == "summary.json" else 0


class Mirror:
    """Copies a folder to an address in the background.

    Args:
        folder: the run's folder on this machine.
        uri: the address of its copy.
    """

    def __init__(self, folder: RunFolder, uri: str):
        self._folder = folder
        self._uri = uri.rstrip("/")
        self._store = ObjectStore()
        self._copied: dict[str, State] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def fetch(self, report: Report = ignore_report) -> None:
        """Fetch the files of an earlier start that a resumed run needs.

        `report` is called with the number of bytes that have been copied, and the number of all bytes to copy.

        Raises:
            RunError: OUTPUT_INVALID when the address cannot be used, STORAGE_UNREACHABLE when the store does not
                answer.
        """
        # The copy in the store is authoritative: files on this machine may be of an older start.
        shutil.rmtree(self._folder.path, ignore_errors=True)
        try:
            stored = {item.name: item for item in self._store.objects(self._uri)}
            complete_checkpoints = {_checkpoint(name) for name in stored if name.endswith(f"/{CHECKPOINT_MARKER}")}
            # Rollouts are written for users, and no run reads them again.
            needed = {
                name
                for name in stored
                if not name.startswith("rollouts/") and _checkpoint(name) in {None, *complete_checkpoints}
            }
            objects = [stored[name] for name in sorted(needed)]
            total = sum(item.size for item in objects)
            self._store.download(self._uri, self._folder.path, objects, count_bytes(total, report))
        except StorageError as error:
            code = ExitCode.OUTPUT_INVALID if error.permanent else ExitCode.STORAGE_UNREACHABLE
            raise RunError(code, str(error)) from error
        self._copied = {name: state for name, state in self._files().items() if name in needed}
        # Checkpoints of a killed run without a marker count as copied, so that the next sync deletes them.
        self._copied |= {name: (0, 0) for name in stored if _checkpoint(name) and name not in needed}

    def start(self) -> None:
        """Begin to copy changes of the folder in the background.

        Raises:
            RunError: OUTPUT_INVALID when the store refuses to store files, because the result would be lost at the end.
        """
        try:
            self._sync()
        except StorageError as error:
            if error.permanent:
                raise RunError(ExitCode.OUTPUT_INVALID, str(error)) from error
            log.warning("copying to %s: %s", self._uri, error)
        self._thread.start()

    def finish(self, report: Report = ignore_report) -> None:
        """Copy the remaining changes; `report` is as for `fetch`.

        Raises:
            RunError: OUTPUT_FAILED when the store stays unreachable.
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
                # A file was removed meanwhile, or the store is unreachable; the next sync tries again.
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
        files = {}
        for path in self._folder.path.rglob("*"):
            name = path.relative_to(self._folder.path).as_posix()
            # Incomplete files: transformers' names of checkpoints that it is writing, and our names of partial files.
            unfinished = name.startswith("checkpoints/checkpoint-") or PARTIAL_SUFFIX in name or name.startswith(".")
            if path.is_file() and not unfinished:
                status = path.stat()
                files[name] = (status.st_size, status.st_mtime_ns)
        return files


def _checkpoint(name: str) -> str | None:
    """Return the name of the checkpoint's folder that a file is in, or None."""
    parts = name.split("/")
    return parts[1] if parts[0] == "checkpoints" and len(parts) > 2 else None
