"""The versions of adapters on disk: complete folders `FOLDER/NAME-ADDRESS/CONTENT` that never change."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Set
from pathlib import Path

from rft_api.files import PARTIAL_SUFFIX, partial_path
from rft_loader.problems import Problem
from rft_loader.room import Room
from rft_loader.source import Source, fetch_files, remove_other_partials, revision_of
from rft_loader.validation import choose_files

log = logging.getLogger(__name__)

Check = Callable[[Path], None]
"""Raises a Problem when the adapter in a folder cannot be served."""


def prepare_version(uri: str, source: Source, home: Path, room: Room, check: Check) -> tuple[Path, str]:
    """Fetch and check the newest version of an adapter; return its folder and a remark for the user, often empty.

    A mounted adapter is copied, too: whoever may write to the volume could change it after it was checked. When the
    files at the address cannot be listed, return the newest version that was fetched before.

    Raises:
        Problem: when there is no version that can be served.
    """
    try:
        files = choose_files(uri, source.files())
    except Problem as problem:
        newest = _newest_version(home, check)
        if newest is None:
            raise
        return newest, f"what was fetched before is served, because: {problem}"
    version = home / revision_of(files)
    if not version.exists():
        home.mkdir(parents=True, exist_ok=True)
        partial, size = partial_path(version), sum(file.size for file in files)
        remove_other_partials(partial, "*")
        with room.reserve(uri, partial, size):
            log.info("fetching %s: %.1f MB", uri, size / 1e6)
            fetch_files(source, files, partial)
            shutil.rmtree(partial / ".cache", ignore_errors=True)
            partial.rename(version)
    try:
        check(version)
    except Problem as problem:
        raise Problem(f"{uri}: {problem}", problem.permanent) from problem
    return version, ""


def remove_versions(
    folder: Path, needed: Set[Path], busy: Set[Path], unneeded_since: dict[Path, float], now: float, keep: float
) -> None:
    """Remove versions that have not been needed for some time.

    Args:
        folder: the folder of all adapters.
        needed: versions that stay.
        busy: folders of adapters that are being written to; nothing in them is removed.
        unneeded_since: when each version was first not needed; updated by this function.
        now: the time in seconds.
        keep: seconds that a version stays on disk while it is not needed.
    """
    present = {version for home in folder.glob("*/") if home not in busy for version in home.iterdir()}
    # Time passes for the versions of busy adapters, too: each is busy when it is looked at, once a minute. It does not
    # for what is being fetched, which a later attempt completes.
    waiting = {each for each in unneeded_since if each.parent in busy and not each.name.endswith(PARTIAL_SUFFIX)}
    for version in unneeded_since.keys() - waiting - (present - needed):
        del unneeded_since[version]
    for version in present - needed:
        if now - unneeded_since.setdefault(version, now) < keep:
            continue
        log.info("removing %s", version)
        if version.is_symlink():
            version.unlink()
        else:
            shutil.rmtree(version, ignore_errors=True)
        del unneeded_since[version]
        if not any(version.parent.iterdir()):
            version.parent.rmdir()


def complete_versions(home: Path) -> list[Path]:
    """Return the versions of an adapter that were fetched whole, the newest first."""
    versions = [path for path in home.glob("*/") if not path.name.endswith(PARTIAL_SUFFIX)]
    return sorted(versions, key=lambda path: path.lstat().st_mtime, reverse=True)


def _newest_version(home: Path, check: Check) -> Path | None:
    for version in complete_versions(home):
        try:
            check(version)
        except Problem:
            continue
        return version
    return None
