"""Reads the names, dtypes and shapes of the tensors in a safetensors file, without the tensors themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rft_loader.problems import Problem

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
"""The limit of the safetensors format, in bytes."""


@dataclass(frozen=True)
class Tensor:
    """A tensor without its values."""

    dtype: str
    shape: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, by name.

    Raises:
        Problem: when the file is no safetensors file, or is incomplete.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            # A file that is shorter than its header says yields text that is no JSON, which is refused below.
            text = file.read(min(length, _LONGEST_HEADER))
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = {name: Tensor(str(e["dtype"]), tuple(map(int, e["shape"]))) for name, e in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except OSError as error:
        raise Problem(f"{path.name}: {error.strerror}", permanent=False) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Problem(f"{path.name}: is no safetensors file, or only the beginning of one; copy it again") from error
    if size != _LENGTH_BYTES + length + end:
        raise Problem(f"{path.name}: has {size} bytes where {_LENGTH_BYTES + length + end} belong; copy it again")
    return tensors
