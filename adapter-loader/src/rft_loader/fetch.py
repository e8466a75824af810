"""Fetches a model: configuration, tokenizer and safetensors. The target folder appears only when it is complete."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from rft_api.adapter_protocol import format_total
from rft_api.files import atomic_write, partial_path
from rft_api.foreign.files import read_file
from rft_api.model_files import choose_files, indexed_weights
from rft_loader.problems import Problem, storage_problems
from rft_loader.source import Source, SourceFile, fetch_files, remove_other_partials, revision_of

log = logging.getLogger(__name__)

_LARGEST_REVISION = 1000


def fetch_model(uri: str, source: Source, target: Path) -> None:
    """Fetch a model into a folder that appears only when it is complete. A complete folder is left unchanged.

    Raises:
        Problem: when the model cannot be fetched; permanent when the address holds no model with safetensors.
    """
    if _is_complete(target):
        log.info("%s is complete already", target)
        return
    _finish(uri, _fetch(uri, source, _list_files(source), target), target)


def fetch_newest_model(uri: str, source: Source, target: Path) -> None:
    """Fetch a model as `fetch_model` does, and fetch it again when its files at the address have changed.

    A complete folder stays as it is while the files at the address cannot be listed, and until the new ones are there.

    Raises:
        Problem: as `fetch_model`.
    """
    revision_file = target.with_name(f"{target.name}.revision")
    try:
        files = _list_files(source)
        with storage_problems():
            names = [name for kind in choose_files(uri, files) for name in kind]
    except Problem as problem:
        if not _is_complete(target):
            raise
        log.warning("what was fetched before is used, because: %s", problem)
        return
    revision = revision_of(files[name] for name in names)
    if _is_complete(target) and _read_revision(revision_file) == revision:
        log.info("%s is complete already", target)
        return
    partial = _fetch(uri, source, files, target)
    # A name of partial downloads, so that the next one removes it if this process ends here.
    former = partial_path(target.with_name(f"{target.name}.former"))
    if target.exists():
        target.rename(former)
    _finish(uri, partial, target)
    atomic_write(revision_file, revision)
    if former.exists():
        shutil.rmtree(former)


def _is_complete(target: Path) -> bool:
    return (target / "config.json").is_file()


def _list_files(source: Source) -> dict[str, SourceFile]:
    return {file.name: file for file in source.files() if "/" not in file.name}


def _read_revision(path: Path) -> str:
    try:
        return read_file(path, _LARGEST_REVISION).decode("ascii", "replace")
    except (OSError, ValueError):
        return ""


def _fetch(uri: str, source: Source, files: Mapping[str, SourceFile], target: Path) -> Path:
    """Return the folder of the complete download, which has the name of a partial one."""
    with storage_problems():
        others, names = choose_files(uri, files)
    partial = _partial_folder(target, revision_of(files.values()))
    fetch_files(source, [files[name] for name in others], partial)
    with storage_problems():
        weights = [files[name] for name in indexed_weights(uri, partial, names)]
    total, fetched = sum(file.size for file in weights), 0
    log.info("fetching %s: %d files of weights, %.1f MB", uri, len(weights), total / 1e6)
    log.info("%s", format_total(total))
    for number, file in enumerate(weights, start=1):
        fetch_files(source, [file], partial)
        fetched += file.size
        log.info(
            "fetched %s: %d of %d files, %.1f of %.1f MB", file.name, number, len(weights), fetched / 1e6, total / 1e6
        )
    # The hub's library keeps its notes about downloads there.
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    return partial


def _finish(uri: str, partial: Path, target: Path) -> None:
    partial.rename(target)
    log.info("%s is complete", target)


def _partial_folder(target: Path, revision: str) -> Path:
    """Return the folder for the partial download of this revision; remove partial downloads of other revisions."""
    partial = partial_path(target.with_name(f"{target.name}.{revision}"))
    remove_other_partials(partial, f"{target.name}.*")
    return partial
