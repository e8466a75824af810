"""Where built programs are kept: outside the repository, for every checkout on the machine."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.patience import uncounted

Report = Callable[[str], None]
"""Shows a line to the person who waits."""

REPORT_SECONDS = 10.0
"""Time between two lines that say how far something is."""


def cache_folder() -> Path:
    """The folder, made when missing."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "rft-operator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(name: str, report: Report, unless: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Hold the machine-wide lock of that name, which the kernel frees however its holder ends.

    To wait for it takes no time of the running test, whatever its holder does.

    Args:
        name: of the lock.
        report: shows for whom it waits.
        unless: ends the wait, without the lock, when what the lock is for has been done by another process.

    Yields:
        A file that the holder may write a line about its progress into; those who wait show it.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(exist_ok=True)
    progress = folder / f"{name}.progress"
    with (folder / name).open("w") as lock:
        with uncounted():
            is_held = _wait(lock.fileno(), name, progress, report, unless)
        try:
            yield progress
        finally:
            if is_held:
                progress.unlink(missing_ok=True)


def _wait(descriptor: int, name: str, progress: Path, report: Report, unless: Callable[[], bool]) -> bool:
    """Wait for a lock; return whether it is held."""
    shown = time.monotonic() - REPORT_SECONDS + 1
    while not _try_lock(descriptor):
        if unless():
            return False
        if time.monotonic() - shown >= REPORT_SECONDS:
            shown = time.monotonic()
            line = progress.read_text(encoding="utf-8") if progress.exists() else name
            report(f"Waiting for another process of this machine: {line}")
        time.sleep(0.2)
    return True


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
