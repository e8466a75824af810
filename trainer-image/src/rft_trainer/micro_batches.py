"""Splits the completions of a step into parts of bounded size, one for each forward and backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rft_trainer.token_tree import common_length


def split_by_tokens(sequences: Sequence[Sequence[int]], tokens: int, minimum_parts: int = 1) -> list[list[int]]:
    """Return the indices of the sequences of each part: at least `minimum_parts`, each with at most `tokens` tokens.

    Sequences with a common prefix stay together, and its tokens count once, as in a token tree. A sequence with more
    tokens is a part of its own.

    Raises:
        ValueError: when there are fewer sequences than `minimum_parts`.
    """
    parts: list[list[int]] = []
    size = 0
    previous: Sequence[int] = ()
    for place in sorted(range(len(sequences)), key=lambda place: tuple(sequences[place])):
        sequence = sequences[place]
        new = len(sequence) - common_length(previous, sequence)
        if not parts or size + new > tokens:
            parts.append([])
            size, new = 0, len(sequence)
        parts[-1].append(place)
        size += new
        previous = sequence
    if len(sequences) < minimum_parts:
        raise ValueError(f"{len(sequences)} sequences cannot make {minimum_parts} parts")
    while len(parts) < minimum_parts:
        largest = max(range(len(parts)), key=lambda number: len(parts[number]))
        middle = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:middle], parts[largest][middle:]]
    return parts


def sequences_of(inputs: Mapping[str, Any]) -> list[list[int]]:
    """Return the prompt and completion of each row of TRL's inputs, without padding."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1).bool()
    return [row[real].tolist() for row, real in zip(ids.cpu(), mask.cpu(), strict=True)]


def select(inputs: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """Return rows of TRL's inputs, cut to the longest prompt and completion among them; keep other values unchanged."""
    count, width = inputs["completion_ids"].shape
    rows = torch.tensor(places, device=inputs["completion_ids"].device)
    prompt = max(1, int(inputs["prompt_mask"][rows].sum(1).max()))
    completion = max(1, int(inputs["completion_mask"][rows].sum(1).max()))
    part = dict(inputs)
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor) or not value.ndim or len(value) != count:
            continue
        value = value[rows]
        if name in ("prompt_ids", "prompt_mask"):
            value = value[:, -prompt:]
        elif value.ndim > 1 and value.shape[1] == width:
            value = value[:, :completion]
        part[name] = value
    return part
