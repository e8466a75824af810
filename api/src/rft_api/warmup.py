"""The supervised stage of an RFTJob: the conversations that a model learns to imitate, and how."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from rft_api.model import Model, Rule
from rft_api.quantities import Between, Decimal, Integer, at_most_one_of
from rft_api.sources import DEFAULT_VALIDATION_FRACTION, WarmupSource, distinct_names


class WarmupSettings(Model):
    """How the supervised stage trains."""

    epochs: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Number of passes over the conversations."""
    batch_size: Annotated[Integer, Field(ge=1, le=4096)] = 16
    """Number of conversations per optimizer step, summed over all processes."""
    learning_rate: Annotated[Decimal, Between("0", "0.1", low_included=False)] = 2e-5
    """Learning rate at the start of the stage. It falls linearly to 0 until the end of the stage."""


WarmupSources = Annotated[list[WarmupSource], Field(min_length=1, max_length=32)]


class Warmup(WarmupSettings):
    """A supervised stage before reinforcement learning, or in its place."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most_one_of("validation", "validation_fraction"),
        distinct_names("data"),
        distinct_names("validation"),
    )

    data: WarmupSources
    """Sources of the conversations for the supervised stage."""
    validation: WarmupSources | None = None
    """Sources of the conversations on which the loss is measured, of a job without data.train. They choose nothing: the
    weights of the last step are exported."""
    validation_fraction: Annotated[Decimal, Between("0.001", "0.5")] | None = None
    """Share of the conversations that is set aside for validation, of a job without data.train. The default is "0.1" if
    validation is absent."""

    @property
    def effective_validation_fraction(self) -> float:
        """Share that is set aside in a job without data.train; 0 when validation has sources of its own."""
        if self.validation:
            return 0.0
        return DEFAULT_VALIDATION_FRACTION if self.validation_fraction is None else self.validation_fraction
