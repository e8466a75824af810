"""Groups: the completions of one prompt, which rewards with `scope: Group` see together, and which are never split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def group_id(messages: Sequence[Mapping[str, Any]], reference_answer: Any) -> str:
    """Return the id of the group of a completion, from its prompt and reference answer: the completions of one data row
    share it.

    Args:
        messages: the conversation without the completion.
        reference_answer: the reference answer.
    """
    content = json.dumps([messages, reference_answer], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def split_groups(samples: Sequence[Mapping[str, Any]], by_group: bool) -> list[list[int]]:
    """Return the positions of the samples that have to stay together, in the order of their first samples.

    Args:
        samples: samples of the reward protocol.
        by_group: whether samples with the same `group` have to stay together. Otherwise each stands by itself.
    """
    if not by_group:
        return [[position] for position in range(len(samples))]
    groups: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(sample["group"], []).append(position)
    return list(groups.values())


def whole_batches(groups: Sequence[list[int]], size: int) -> Iterator[list[list[int]]]:
    """Yield the batches of whole groups, each of at most `size` positions; a larger group is a batch of its own."""
    batch: list[list[int]] = []
    length = 0
    for group in groups:
        if batch and length + len(group) > size:
            yield batch
            batch, length = [], 0
        batch.append(group)
        length += len(group)
    if batch:
        yield batch
