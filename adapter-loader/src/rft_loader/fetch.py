"""Fetches a model: configuration, tokenizer and safetensors, whole or not at all."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from rft_api.files import partial_path
from rft_api.model_files import choose_files, indexed_weights
from rft_loader.problems import storage_problems
from rft_loader.source import Source, fetch_files, revision_of

log = logging.getLogger(__name__)


def fetch_model(uri: str, source: Source, target: Path) -> None:
    """Fetches a model into a folder that exists only when it is complete; one that is complete is left as it is.

    Raises:
        Problem: permanent when there is no model of safetensors at the address.
    """
    if (target / "config.json").is_file():
        log.info("%s is complete already", target)
        return
    files = {file.name: file for file in source.files() if "/" not in file.name}
    with storage_problems():
        others, names = choose_files(uri, files)
    partial = _partial_folder(target, revision_of(files.values()))
    fetch_files(source, [files[name] for name in others], partial)
    with storage_problems():
        weights = [files[name] for name in indexed_weights(uri, partial, names)]
    total, done = sum(file.size for file in weights), 0
    log.info("fetching %s: %d files of weights, %.1f MB", uri, len(weights), total / 1e6)
    for number, file in enumerate(weights, start=1):
        fetch_files(source, [file], partial)
        done += file.size
        log.info(
            "fetched %s: %d of %d files, %.1f of %.1f MB", file.name, number, len(weights), done / 1e6, total / 1e6
        )
    # What the hub's library keeps about its downloads.
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    partial.rename(target)
    log.info("%s is complete", target)


def _partial_folder(target: Path, revision: str) -> Path:
    """Where this content is gathered; what was begun of other content is removed."""
    partial = partial_path(target.with_name(f"{target.name}.{revision}"))
    for other in target.parent.glob(partial_path(target.with_name(f"{target.name}.*")).name):
        if other != partial:
            shutil.rmtree(other)
    return partial
