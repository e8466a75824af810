"""The folder of one run of the cluster, removed after it: by the run itself, or by the next one if it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from support.patience import wait_until

from cluster.cache import cache_folder

LAST_BREATH_SECONDS = 1.0
"""Time that the programs of a killed run are given to be killed too."""


class RunFolder:
    """A new folder for the state of one run.

    A lock that the kernel frees with this process tells other runs that it is alive.
    """

    def __init__(self) -> None:
        self.path = cache_folder() / "runs" / f"{int(time.time())}-{os.getpid()}"
        self.path.mkdir(parents=True, mode=0o700)
        # It gets its name when it is held: another process that begins now would take it for that of a killed run.
        new = self.path / "new-lock"
        self._lock = new.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / "lock")

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def remove_abandoned(clean: Callable[[Path], None]) -> list[Path]:
    """Removes the folders of runs whose process is gone, each after `clean` has undone what it did to the machine."""
    removed = []
    for folder in sorted((cache_folder() / "runs").glob("*")):
        file = folder / "lock"
        try:
            # A folder without a lock is being made or removed right now, or was left like that long ago.
            if not file.exists() and time.time() - folder.stat().st_mtime < 60:
                continue
            lock = file.open("a")
        except FileNotFoundError:  # removed by its run
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            time.sleep(LAST_BREATH_SECONDS)
            clean(folder)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def wait_until_removed(folder: Path) -> None:
    """Waits for the removal of a killed run's folder, which a run that begins at the same time may have taken on."""
    wait_until(lambda: not folder.exists(), explain=lambda: f"{folder} is still there")
