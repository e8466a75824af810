"""Which of the files at an address are a model: configuration, tokenizer and safetensors."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from rft_api.storage_error import StorageError

WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
_OTHERS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Configuration and tokenizer. Never code, and never weights in formats that can hold code."""
_REFUSED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf")


def choose_files(uri: str, names: Collection[str]) -> tuple[list[str], list[str]]:
    """The names of those files that belong to a model: configuration and tokenizer, and weights.

    Args:
        uri: where the files are, for messages.
        names: the files at the address itself, not those in folders below it.

    Raises:
        StorageError: when they are no model of safetensors.
    """
    weights = sorted(name for name in names if name.endswith(WEIGHTS))
    if "config.json" not in names:
        hint = "; it is an adapter: give its base model" if "adapter_config.json" in names else ""
        raise StorageError(f"{uri}: is no model: it holds no config.json{hint}")
    if not weights:
        refused = sorted(name for name in names if name.endswith(_REFUSED))
        hint = f" ({refused[0]} is not loaded)" if refused else ""
        raise StorageError(f"{uri}: holds no *.safetensors{hint}; convert its weights")
    return sorted(name for name in names if name.endswith(_OTHERS)), weights


def indexed_weights(uri: str, folder: Path, weights: Collection[str]) -> list[str]:
    """The weights that the index in a folder names, where there is one: repositories often carry a second copy.

    Raises:
        StorageError: when the index cannot be read, or names weights that are missing.
    """
    index = folder / INDEX
    if not index.is_file():
        return sorted(weights)
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{uri}: {INDEX} cannot be read: {error}") from error
    missing = sorted(names - set(weights))
    if missing:
        raise StorageError(
            f"{uri}: {len(missing)} of the {len(names)} files that {INDEX} names are missing, first {missing[0]}; "
            "copy the model again"
        )
    return sorted(names)
