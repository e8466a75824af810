"""Which of the files at an address are a model: configuration, tokenizer and safetensors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from rft_api.exact_json import parse_line
from rft_api.foreign.files import read_json
from rft_api.foreign.text import one_line
from rft_api.storage_error import StorageError

WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
MAXIMUM_CONFIGURATION = 8 << 20
"""Largest size of a model's config.json in bytes; those with thousands of labels have 1 MiB."""
_LARGEST_INDEX = 64 << 20
"""Largest size of an index in bytes; that of a model with 90,000 tensors has 9 MiB."""
_OTHERS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Configuration and tokenizer. Never code, and never weights in formats that can hold code."""
_REFUSED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf")


def read_model_configuration(path: Path) -> Any:
    """Return what a model's config.json holds.

    Raises:
        OSError, ValueError: when it cannot be read, is larger than `MAXIMUM_CONFIGURATION`, or is no JSON.
    """
    return read_json(path, MAXIMUM_CONFIGURATION, parse_line)


def choose_files(uri: str, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the names of those files that belong to a model: configuration and tokenizer, and weights.

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
    """Return the weights that the index in a folder names, where there is one: repositories often carry a second copy.

    Raises:
        StorageError: when the index cannot be read, or names weights that are missing.
    """
    index = folder / INDEX
    if not index.is_file():
        return sorted(weights)
    try:
        names = {str(name) for name in read_json(index, _LARGEST_INDEX, parse_line)["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{uri}: {INDEX} cannot be read: {one_line(str(error))}") from error
    missing = sorted(names - set(weights))
    if missing:
        first = one_line(missing[0], 200)
        raise StorageError(
            f"{uri}: {len(missing)} of the {len(names)} files that {INDEX} names are missing, first {first}; "
            "copy the model again"
        )
    return sorted(names)
