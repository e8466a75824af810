"""Digests of the files of models and data: by them a run knows its inputs, and an upload what is stored already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rft_api.foreign.files import open_file
from rft_api.progress import OnBytes, Report, count_bytes

DIGEST_PREFIX = "sha256:"
_BLOCK_BYTES = 1 << 24


def file_digest(path: Path, on_bytes: OnBytes) -> str:
    """Return the SHA-256 of a file as `sha256:HEX`; `on_bytes` is called with the size of each block that was read.

    Raises:
        OSError: when it cannot be read.
    """
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return DIGEST_PREFIX + digest.hexdigest()


def file_digests(paths: Iterable[Path], report: Report) -> dict[Path, str]:
    """Return the digests of files; `report` is called with the bytes that have been read, and the sum of all.

    Raises:
        OSError: when one cannot be read.
    """
    ordered = sorted(paths)
    count = count_bytes(sum(path.stat().st_size for path in ordered), report)
    return {path: file_digest(path, count) for path in ordered}


def listed_digest(digests: Mapping[str, str]) -> str:
    """Return the digest of several files, from their digests by their names.

    The order of the mapping counts, so callers sort it by the paths or the names.
    """
    lines = "".join(f"{digest} {name}\n" for name, digest in digests.items())
    return DIGEST_PREFIX + hashlib.sha256(lines.encode()).hexdigest()


def files_at(path: Path, is_read: Callable[[str], bool]) -> list[Path]:
    """Return the file at a path, or those files below a folder that are read.

    Args:
        path: a file or a folder.
        is_read: tells by the name of a file, relative to the folder, whether it is read.
    """
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if is_read(file.relative_to(path).as_posix()))
