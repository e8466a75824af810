"""What the tokens of a model cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rft_api.model import Model

AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,6})?$"
Amount = Annotated[str, Field(max_length=13, pattern=AMOUNT_PATTERN)]
"""An amount of money below 1000000 in quotes, with at most six decimals, such as "0.15"."""


class Price(Model):
    """What the tokens of a model cost, in the currency that your organization calculates in."""

    prompt_tokens: Amount = "0"
    """Price of a million tokens in prompts."""
    cached_prompt_tokens: Amount | None = None
    """Price of a million tokens in prompts that the server had in its cache. The default is promptTokens."""
    completion_tokens: Amount = "0"
    """Price of a million tokens that the model has generated."""
