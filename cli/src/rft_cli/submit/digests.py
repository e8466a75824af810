"""Computes digests of local files, and remembers those of large files that have not changed since."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rft_api.file_digests import file_digests
from rft_api.files import atomic_write
from rft_api.foreign.files import read_json
from rft_api.progress import Report
from rft_cli.caches import cache_folder

_REMEMBERED_BYTES = 1 << 20
"""Size from which on a file's digest is remembered; smaller ones are read in no time."""
_SETTLED_SECONDS = 2.0
"""Age of a change from which on another one has another time, whatever clock the file system has."""
_LARGEST_CACHE = 16 << 20
_MOST_ENTRIES = 10_000

State = list[int]
"""Size, times of the last change of the contents and of the file in nanoseconds, and the file's number on its disk."""


def known_digests(paths: Iterable[Path], report: Report) -> dict[Path, str]:
    """Return the digests of files; those of large files that have not changed are not computed again.

    What is uploaded is compared with its digest once more, so that a file is never stored under another one's digest.

    Args:
        paths: the files.
        report: called with the bytes that have been read, and all that are to be read.

    Raises:
        OSError: when a file cannot be read.
    """
    states = {path: _state(path) for path in paths}
    cache_file = cache_folder("digests.json")
    cache: dict[str, tuple[State, str]] = {}
    with suppress(OSError, ValueError, TypeError):  # without the cache, everything is computed
        cache = dict(read_json(cache_file, _LARGEST_CACHE))
    digests = {path: digest for path, state in states.items() if (digest := _remembered(cache, path, state))}
    computed = file_digests([path for path in states if path not in digests], report)
    now = time.time_ns()
    for path, digest in computed.items():
        size, *times, _ = state = states[path]
        settled = now - max(times) > _SETTLED_SECONDS * 1e9 and _state(path) == state
        cache.pop(str(path), None)
        if settled and size >= _REMEMBERED_BYTES:
            cache[str(path)] = (state, digest)
    if computed:
        with suppress(OSError):  # it only costs time
            atomic_write(cache_file, json.dumps(dict(list(cache.items())[-_MOST_ENTRIES:])))
    return {**digests, **computed}


def _remembered(cache: dict[str, tuple[State, str]], path: Path, state: State) -> str | None:
    entry = cache.get(str(path))
    if not isinstance(entry, (list, tuple)) or len(entry) != 2 or entry[0] != state:
        return None
    return entry[1] if isinstance(entry[1], str) else None


def _state(path: Path) -> State:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
