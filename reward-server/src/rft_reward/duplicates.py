"""Explains why a handler returned several rows for a sample, where the sample shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rft_api.model import Json
from rft_api.reward_protocol import DUPLICATE_ROWS


def explain_duplicates(samples: Sequence[dict[str, Any]], rows: list[Json]) -> list[Json]:
    """Return the rows, with a more exact error where the cause of several rows is most likely a missing reference
    answer.

    Published handlers append a row for a sample without a reference answer, and go on to append the usual one.
    """
    for sample, row in zip(samples, rows, strict=True):
        if row.get("error") == DUPLICATE_ROWS and _has_no_answer(sample):
            row["error"] = f"the sample has no reference_answer, and {DUPLICATE_ROWS}"
    return rows


def _has_no_answer(sample: dict[str, Any]) -> bool:
    return sample.get("reference_answer") is None and (sample.get("metadata") or {}).get("reference_answer") is None
