"""Reads the files that Weights & Biases writes offline: a log of LevelDB's format, with its own protocol buffers."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_HEAD = b":W&B"
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(file: Path) -> Iterator[Any]:
    """The records of a file."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content.startswith(_HEAD)
    position, parts = 7, b""
    while position < len(content):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        data = content[position + 7 : position + 7 + length]
        position += 7 + length
        assert kind in (_FULL, _FIRST, _MIDDLE, _LAST), kind
        parts = data if kind in (_FULL, _FIRST) else parts + data
        if kind in (_FULL, _LAST):
            yield Record.FromString(parts)


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(file)
        if record.HasField("history")
    ]


def points(file: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each curve, by optimizer step."""
    found = defaultdict(list)
    for row in rows(file):
        for name, value in row.items():
            # Those of samples are the sizes of tables.
            if not name.startswith(("_", "samples/")) and name != "step" and isinstance(value, (int, float)):
                found[name].append((row["step"], float(value)))
    return found


def configuration(file: Path) -> dict[str, Any]:
    """The configuration of the run."""
    [run] = [record.run for record in records(file) if record.HasField("run")]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in run.config.update}
