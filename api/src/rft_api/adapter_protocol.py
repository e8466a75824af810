"""What the adapter loader and its callers say to each other: which adapters to serve, and how far a fetch is."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from rft_api.model import Model

ADAPTERS_PATH: Final = "/adapters"
"""Where the loader answers with `AdapterReports`."""
_TOTAL: Final = "bytes of weights to fetch: "


def format_total(size: int) -> str:
    """Return the line in which a loader that fetches a model says how many bytes its weights have."""
    return f"{_TOTAL}{size}"


def find_total(output: str) -> int | None:
    """Return the number of bytes in the output of a loader that fetches a model; None while it has not said it."""
    line = re.search(rf"{_TOTAL}(\d+)$", output, re.MULTILINE)
    return None if line is None else int(line.group(1))


class ListedAdapter(Model):
    """An adapter that a server is to serve."""

    name: str = Field(min_length=1)
    """The name that it answers to."""
    uri: str = Field(min_length=1)
    """Its address: `s3://`, `hf://`, or a folder."""


class AdapterList(Model):
    """The file that the loader follows."""

    adapters: list[ListedAdapter]
    """The adapters, each name once."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len({adapter.name for adapter in self.adapters}) < len(self.adapters):
            raise ValueError("each name must occur once")
        return self


class _Answer(Model):
    """Base of what the loader answers: a loader of another version may add fields."""

    model_config = {"extra": "ignore"}


class AdapterReport(_Answer):
    """How far the loader is with an adapter."""

    name: str
    """The adapter's name."""
    uri: str
    """The address that it is loaded from."""
    state: Literal["Loading", "Loaded", "Failed"]
    """Where it stands."""
    message: str = ""
    """The state in words, for a person; empty when there is nothing to say."""
    permanent: bool = False
    """Whether another attempt cannot help until somebody changes something; of Failed only."""


class AdapterReports(_Answer):
    """The loader's answer."""

    adapters: list[AdapterReport]
    """A report for each adapter of the file."""
