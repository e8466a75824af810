"""Reads the names, dtypes and shapes of the tensors in a safetensors file, without the tensors themselves."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_api.foreign.files import open_file, parse_bounded
from rft_api.foreign.sizes import format_size
from rft_loader.problems import Problem

_LENGTH_BYTES = 8
_LONGEST_HEADER = 32 << 20
"""Largest size of a header in bytes. That of an adapter for 90,000 experts has 14 MiB; the format allows 100 MB."""
_USUAL_HEADER = 256 << 10
"""Size in bytes of a header that takes little memory. That of an adapter for 560 modules has 134 KB."""
_MOST_DIMENSIONS = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of a value of each dtype (safetensors, `Dtype::bitsize`)."""


@dataclass(frozen=True)
class Tensor:
    """A tensor without its values."""

    dtype: str
    shape: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, by name. What the header says is compared with the size of the file.

    Raises:
        Problem: when the file is no safetensors file, or is incomplete.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > min(size - _LENGTH_BYTES, _LONGEST_HEADER):
                reason = f"its header should have {length:,} bytes, in a file of {size:,}"
                raise ValueError(f"{reason}; headers have at most {format_size(_LONGEST_HEADER)}")
            header = parse_bounded(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        places = dict(_places(header))
    except OSError as error:
        raise Problem(f"{path.name}: {error.strerror}", permanent=False) from error
    except ValueError as error:
        text = f"is no safetensors file, or only the beginning of one ({error}); copy it again"
        raise Problem(f"{path.name}: {text}") from error
    _check_places(path, places, _LENGTH_BYTES + length, size)
    return {name: place.tensor for name, place in places.items()}


def has_large_header(path: Path) -> bool:
    """Return whether the header of a file takes much memory to read; False when the file cannot be read at all."""
    try:
        with open_file(path) as file:
            return int.from_bytes(file.read(_LENGTH_BYTES), "little") > _USUAL_HEADER
    except OSError:
        return False  # `read_tensors` says why


@dataclass(frozen=True)
class _Place:
    """Where the values of a tensor are, in bytes from the end of the header."""

    tensor: Tensor
    start: int
    end: int


def _places(header: dict[str, Any]) -> Iterator[tuple[str, _Place]]:
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                raise ValueError("__metadata__ does not map names to texts")
            continue
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name} is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise ValueError(f"tensor {name} has the dtype {dtype}, which safetensors does not have")
        if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name} has a shape that is none")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise ValueError(f"tensor {name} has data_offsets that are none")
        yield name, _Place(Tensor(dtype, tuple(shape)), *offsets)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_places(path: Path, places: dict[str, _Place], head: int, size: int) -> None:
    """Refuse tensors that do not fill the file one after another, each with as many bytes as its shape takes.

    Args:
        path: the file.
        places: the tensors.
        head: bytes of the file before the tensors.
        size: bytes of the file.

    Raises:
        Problem: with the first tensor that does not, or the size that the file should have.
    """
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = math.prod(place.tensor.shape) * _BITS[place.tensor.dtype]
        if (place.end - place.start) * 8 != bits:
            kind = f"{place.tensor.dtype} of the shape {list(place.tensor.shape)}"
            text = f"tensor {name} is {kind}, which takes {bits // 8:,} bytes, but has {place.end - place.start:,}"
            raise Problem(f"{path.name}: {text}; save the file again")
        if place.start != end:
            fault = "overlaps the tensor before it" if place.start < end else "has a gap before it"
            raise Problem(
                f"{path.name}: tensor {name} {fault} (its bytes begin at {place.start:,}); save the file again"
            )
        end = place.end
    if size != head + end:
        raise Problem(f"{path.name}: has {size} bytes where {head + end} belong; copy it again")
