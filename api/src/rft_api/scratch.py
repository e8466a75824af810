"""Folders for the files of one process, such as tokens of reward servers; those of killed processes are removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rft_api.files import open_in_place

_LOCK = ".lock"


@contextmanager
def scratch_folder(
    prefix: str = "rft-scratch-", release: Callable[[Path], None] = lambda folder: None
) -> Iterator[Path]:
    """Yield a new folder that only this user can read, and remove it in the end.

    A process that is killed leaves its folder behind. The kernel releases its lock, so that the next process that makes
    a folder with this prefix knows it, and removes it.

    Args:
        prefix: what the folder's name begins with.
        release: called with the folder of a killed process before it is removed; ends what still uses it.
    """
    _remove_abandoned(Path(tempfile.gettempdir()), prefix, release)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        new = folder / f"{_LOCK}.new"
        with open_in_place(new) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(folder / _LOCK)  # others must never see it without its lock
            yield folder


def _remove_abandoned(parent: Path, prefix: str, release: Callable[[Path], None]) -> None:
    """Remove the folders of this user's processes that have ended without removing them."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or not (folder / _LOCK).exists():
                continue
            with open_in_place(folder / _LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                release(folder)
                shutil.rmtree(folder, ignore_errors=True)
