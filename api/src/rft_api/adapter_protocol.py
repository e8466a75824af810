"""What the operator and the adapter loader say to each other: which adapters to serve, and how far each is."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from rft_api.model import Model

ADAPTERS_PATH: Final = "/adapters"
"""Where the loader answers with `AdapterReports`."""


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
