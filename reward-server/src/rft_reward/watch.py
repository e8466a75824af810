"""What a worker's processes use together, where no limit of the kernel's counts it; and removing what they wrote."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
from collections.abc import Iterable
from pathlib import Path

from rft_reward.sandbox import SCRATCH_BYTES, SCRATCH_FILES


class Watch:
    """The limits of one worker."""

    def __init__(self, worker: int, memory: str, memory_bytes: int, scratch: Path | None):
        """`scratch` is the folder to look at, or None where its file system has a size of its own."""
        self._worker = worker
        self._memory, self._memory_bytes = memory, memory_bytes
        self._scratch = scratch
        self._before = _own_bytes(worker)

    def excess(self, offspring: Iterable[int]) -> tuple[str, str] | None:
        """Which limit the worker and its offspring exceed together, and what to do about it; None for none."""
        # A fork shares with the worker, until it writes, what the worker had from the start.
        used = sum(max(0, _own_bytes(process) - self._before) for process in (self._worker, *offspring))
        if used > self._memory_bytes:
            text = f"the code's processes together used more than {self._memory}"
            return "memory", f"{text}: make them use less, or raise spec.sandbox.memory"
        if self._scratch is not None and _holds_more(self._scratch, SCRATCH_BYTES, SCRATCH_FILES):
            text = f"the code wrote more than {SCRATCH_BYTES >> 20} MiB or {SCRATCH_FILES} files, or hid a folder"
            return "scratch", f"{text}: make it write less"
        return None

    def crowded(self) -> bool:
        """Whether what is left in the scratch folder would be in the way of the next batch."""
        return self._scratch is not None and _holds_more(self._scratch, SCRATCH_BYTES // 2, SCRATCH_FILES // 2)


def _own_bytes(process: int) -> int:
    """Memory of a process that is in use and comes from no file."""
    try:
        fields = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:  # it ended meanwhile
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def _holds_more(folder: Path, most_bytes: int, most_files: int) -> bool:
    used, files, folders = 0, 0, [str(folder)]
    for inner in folders:
        try:
            with os.scandir(inner) as entries:
                for entry in entries:
                    files += 1
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
                    if used > most_bytes or files > most_files:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:  # a folder without the right to look into it, or deeper than a path can be
            return True
    return False


def remove(folder: Path) -> None:
    """Removes a folder that code wrote to, however deep its folders and whatever their modes."""
    with contextlib.suppress(OSError):
        while folders := _remove_files(folder):
            for inner in folders:
                for deeper in _remove_files(inner):
                    # Brought up here, so that neither paths nor calls nest.
                    deeper.rename(folder / secrets.token_hex(16))
                inner.rmdir()
        folder.rmdir()


def _remove_files(folder: Path) -> list[Path]:
    """Removes what is no folder; returns the folders, which can then be looked into and moved."""
    folders = []
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            entry.chmod(0o700)
            folders.append(entry)
        else:
            entry.unlink()
    return folders
