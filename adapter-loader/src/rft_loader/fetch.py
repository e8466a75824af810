"""Fetches a model: configuration, tokenizer and safetensors, whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from rft_loader.problems import Problem
from rft_loader.source import Source, SourceFile, fetch_files, revision_of

log = logging.getLogger(__name__)

WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
_OTHERS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Configuration and tokenizer. Never code, and never weights in formats that can hold code."""
_REFUSED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf")


def fetch_model(uri: str, source: Source, target: Path) -> None:
    """Fetches a model into a folder that exists only when it is complete; one that is complete is left as it is.

    Raises:
        Problem: permanent when there is no model of safetensors at the address.
    """
    if (target / "config.json").is_file():
        log.info("%s is complete already", target)
        return
    files = [file for file in source.files() if "/" not in file.name]
    others, weights = choose_files(uri, files)
    partial = _partial_folder(target, revision_of(files))
    fetch_files(source, others, partial)
    weights = _indexed(uri, partial, weights)
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


def choose_files(uri: str, files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Those of a model's files that are fetched: configuration and tokenizer, and weights.

    Raises:
        Problem: when they are no model of safetensors.
    """
    names = {file.name for file in files}
    weights = [file for file in files if file.name.endswith(WEIGHTS)]
    if "config.json" not in names:
        hint = "; it is an adapter: give its base model" if "adapter_config.json" in names else ""
        raise Problem(f"{uri}: is no model: it holds no config.json{hint}")
    if not weights:
        refused = sorted(name for name in names if name.endswith(_REFUSED))
        hint = f" ({refused[0]} is not loaded)" if refused else ""
        raise Problem(f"{uri}: holds no *.safetensors{hint}; convert its weights")
    return [file for file in files if file.name.endswith(_OTHERS)], weights


def _indexed(uri: str, folder: Path, weights: list[SourceFile]) -> list[SourceFile]:
    """The weights that the index names, where there is one: repositories often carry a second copy."""
    index = folder / INDEX
    if not index.is_file():
        return weights
    try:
        named = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{uri}: {INDEX} cannot be read: {error}") from error
    missing = sorted(named - {file.name for file in weights})
    if missing:
        raise Problem(
            f"{uri}: {len(missing)} of the {len(named)} files that {INDEX} names are missing, first {missing[0]}; "
            "copy the model again"
        )
    return [file for file in weights if file.name in named]


def _partial_folder(target: Path, revision: str) -> Path:
    """Where this content is gathered; what was begun of other content is removed."""
    partial = target.with_name(f"{target.name}.{revision}.partial")
    for other in target.parent.glob(f"{target.name}.*.partial"):
        if other != partial:
            shutil.rmtree(other)
    return partial
