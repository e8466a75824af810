"""Adapters that are written byte by byte, so that they can be wrong in ways in which no library writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WEIGHTS = "adapter_model.safetensors"
CONFIGURATION = "adapter_config.json"
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def entry(shape: list[int], start: int, dtype: str = "F32", size: int = 4) -> dict[str, Any]:
    """The description of a tensor in the header of a file of safetensors."""
    count = 1
    for extent in shape:
        count *= extent
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + count * size]}


def configuration(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json with what a server needs."""
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **changes}


def header() -> dict[str, Any]:
    """The header of an adapter of rank 2 for one module of 4 inputs and 4 outputs; its values take 64 bytes."""
    return {f"{MODULE}.lora_A.weight": entry([2, 4], 0), f"{MODULE}.lora_B.weight": entry([4, 2], 32)}


def safetensors(head: Any, data: bytes = bytes(64)) -> bytes:
    """A file of safetensors; the header may be a text already."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_adapter_bytes(folder: Path, weights: bytes, config: bytes) -> Path:
    """Write an adapter's two files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIGURATION).write_bytes(config)
    return folder
